/** Branches of a run, what is recorded in each, and the hash over the order of its calls. */

import { createHash } from "node:crypto";

import { create } from "@bufbuild/protobuf";

import { StepKind } from "./gen/stepwell/v1/types_pb.js";
import { type ScopeState, ScopeStateSchema, type StepRecord } from "./gen/stepwell/v1/workers_pb.js";
import type { Call } from "./code.js";

/** The marker of where a branch heard that the run was asked to cancel. */
export const CANCEL_MARK = "__cancelled";
/** Its value: in the call that the branch waited for. */
export const WAIT = '"wait"';
/** Its value: at the branch's next call. */
export const CALL = '"call"';
const UPDATES = "0";
const ACCEPTANCE = "__update";
const TOLD_CALLS = 6;
const TOLD_BRANCHES = 8;
const HASH_BYTES = 8;

/** Eight bytes. */
export type Hash = Uint8Array<ArrayBuffer>;

/** Of no calls. */
export const EMPTY_HASH: Hash = new Uint8Array(HASH_BYTES);

/** Gives the order hash after one more call; proto/order_hash.json holds examples. */
export function chained(before: Hash, kind: StepKind, name: string, fingerprint = new Uint8Array()): Hash {
  const text = Buffer.from(name);
  const head = Buffer.from([kind, 0, 0, 0, 0]);
  head.writeUInt32BE(text.length, 1);
  const sum = createHash("sha256").update(before).update(head).update(text).update(fingerprint).digest();
  return new Uint8Array(sum.subarray(0, HASH_BYTES));
}

/** How a call of the code finds its step: scope, name, and key or occurrence. */
export function keyOf(record: StepRecord): string {
  return spellKey(record.scope, record.name, record.key || record.occurrence);
}

function spellKey(scope: string, name: string, which: string | number): string {
  return JSON.stringify([scope, name, which]);
}

/** What a step is called. */
export interface Step {
  readonly kind: StepKind;
  readonly name: string;
  /** In place of the count among the calls of that name; empty if there is none. */
  readonly key: string;
}

type MadeCall = Pick<Step, "kind" | "name">;

/**
 * One branch: how many calls its code made, which of them the service was told of, and what it waits for. `count` and
 * `order` cover all calls, `toldCount` and `toldOrder` those before the steps that are not sent yet.
 */
export class Scope {
  count = 0;
  order = EMPTY_HASH;
  toldCount = 0;
  toldOrder = EMPTY_HASH;
  recorded: MadeCall[] = [];
  marks = new Map<number, StepRecord>();
  strayedAt = -1;
  strayed: MadeCall[] = [];
  occurrences = new Map<string, number>();
  patches = new Map<string, boolean>();
  branches = 0;
  cancelSeen = false;
  shielded = false;
  closed = false;
  waiting: Call | undefined;
  busy = false;

  constructor(readonly path: string) {}

  /** A branch of this one. What is shielded hears of no request to cancel, as one does not that has heard. */
  branch(number: number, shielded: boolean): Scope {
    const branch = new Scope(this.path ? `${this.path}/${number}` : String(number));
    branch.shielded = this.shielded || shielded;
    branch.cancelSeen = this.cancelSeen || shielded;
    return branch;
  }

  /** Which call of that name the next one is, from 0. */
  occurrence({ name, key }: Pick<Step, "name" | "key">): number {
    return key ? 0 : (this.occurrences.get(name) ?? 0);
  }

  keyFor(step: Pick<Step, "name" | "key">): string {
    return spellKey(this.path, step.name, step.key || this.occurrence(step));
  }

  /** Counts a call. */
  advance({ kind, name, key }: Step): void {
    if (!key) this.occurrences.set(name, this.occurrence({ name, key }) + 1);
    const known = this.recorded[this.count];
    if (this.strayedAt < 0 && known && (known.kind !== kind || known.name !== name)) this.strayedAt = this.count;
    if (this.strayedAt >= 0 && this.strayed.length < TOLD_CALLS) this.strayed.push({ kind, name });
    this.count++;
    this.order = chained(this.order, kind, name);
  }

  /** Counts a call that is recorded; calls after an unsent one stay out of what is told, and so are noticed. */
  replay(step: Step): void {
    const told = this.toldCount === this.count;
    this.advance(step);
    if (told) {
      this.toldCount = this.count;
      this.toldOrder = this.order;
    }
  }

  /** Spells what the service must agree with. */
  state(): ScopeState {
    return create(ScopeStateSchema, {
      scope: this.path,
      count: this.toldCount,
      hash: this.toldOrder,
      closed: this.closed && this.toldCount === this.count,
      difference: this.strayedAt < 0 ? undefined : { agreeing: this.strayedAt, calls: this.strayed },
    });
  }
}

/** What the service has recorded of a run; each step is taken out as the code calls it. */
export class Record {
  readonly steps = new Map<string, StepRecord>();
  private readonly scopes = new Map<string, { calls: MadeCall[]; marks: Map<number, StepRecord> }>();

  /** Takes in recorded steps, by ordinal. */
  extend(records: Iterable<StepRecord>): void {
    for (const record of records) {
      let found = this.scopes.get(record.scope);
      if (!found) this.scopes.set(record.scope, (found = { calls: [], marks: new Map() }));
      if (record.kind === StepKind.MARKER) found.marks.set(found.calls.length, record);
      found.calls.push({ kind: record.kind, name: record.name });
      this.steps.set(keyOf(record), record);
    }
  }

  /** Whether an update was accepted, by code that takes such. */
  hasAccepted(updateId: string): boolean {
    return this.steps.has(spellKey(UPDATES, ACCEPTANCE, updateId));
  }

  /** Tells a new branch what was recorded in it. */
  open(scope: Scope): void {
    const found = this.scopes.get(scope.path);
    if (!found) return;
    this.scopes.delete(scope.path);
    scope.recorded = found.calls;
    scope.marks = found.marks;
  }

  /** Some recorded branches that the code has not entered. */
  left(): string[] {
    return [...this.scopes.keys()].slice(0, TOLD_BRANCHES);
  }
}
