/** What a run has to tell the service: new steps, where its branches stand, given-up steps and the end. */

import { create } from "@bufbuild/protobuf";

import { takeSome } from "./bundles.js";
import type { Call } from "./code.js";
import type { Payload } from "./gen/stepwell/v1/types_pb.js";
import {
  type ContinueAsNew as ContinueAsNewMessage,
  type NewStep,
  type Progress,
  ProgressSchema,
  type ScopeState,
  ScopeStateSchema,
} from "./gen/stepwell/v1/workers_pb.js";
import { EMPTY_HASH, type Hash, type Record as Recorded, type Scope, type Step } from "./scopes.js";

const MOST_STEPS = 256;
/** The service takes 20,000. */
const MOST_SCOPES = 10_000;
const UNKNOWN_UPDATE = { message: "the code takes no updates", type: "UnknownUpdate", nonRetryable: true };

/** How a run ends. */
export type End = Exclude<Progress["end"], { case: undefined }>;

/** Ends a run so that another one goes on with its work. Thrown by `continueAsNew`; not an error. */
export class ContinueAsNew {
  constructor(readonly end: ContinueAsNewMessage) {}
}

/** A new step on its way to the record, and who waits for it to be there. */
export interface Entry {
  readonly step: NewStep;
  readonly size: number;
  readonly scope: Scope;
  readonly call: Call | undefined;
  readonly count: number;
  readonly order: Hash;
  readonly acks: (() => void)[];
}

/**
 * Gathers what a run has to tell until one Progress takes it; one is under way at a time. So what gathers while the
 * service records the last one is the next, and a refused one has no successors.
 */
export class Outgoing {
  cancelOrdinals: number[] = [];
  stopOrdinals: number[] = [];
  published: Record<string, Payload> = {};
  /** Updates that were told, and are yet to be rejected. */
  readonly updates = new Set<string>();
  sent: Progress | undefined;
  toldWaiting = false;
  lastMarker: Entry | undefined;
  calls = 0;
  private pending: Entry[] = [];
  private sentEntries: Entry[] = [];
  private noted = new Set<Scope>();
  private untold = 0;

  add(entry: Entry): void {
    this.calls++;
    this.pending.push(entry);
  }

  /** Counts a call that is recorded. */
  replay(scope: Scope, step: Step): void {
    this.calls++;
    scope.replay(step);
    this.note(scope);
  }

  /** Takes a branch that replayed calls, or has returned. */
  note(scope: Scope): void {
    this.noted.add(scope);
  }

  /** Whether something must be recorded. */
  get hasNews(): boolean {
    const given = this.cancelOrdinals.length + this.stopOrdinals.length + this.updates.size;
    return given + this.untold + this.pending.length + Object.keys(this.published).length > 0;
  }

  /** Lets the service cancel the step of a call that nobody waits for, as soon as its ordinal is known. */
  giveUp(call: Call): void {
    call.forsaken = true;
    if (call.ordinal) this.cancelOrdinals.push(call.ordinal);
  }

  /** Lets the service ask the activity of a call to stop, once, as soon as its ordinal is known. */
  stop(call: Call): void {
    if (call.stopping) return;
    call.stopping = true;
    if (call.ordinal) this.stopOrdinals.push(call.ordinal);
  }

  /** Makes the next Progress. `isQuiet`: no code of the run is at work, nor waits for a mere record. */
  take(isQuiet: boolean, end: End | undefined, record: Recorded): Progress {
    const entries = takeSome(this.pending, MOST_STEPS);
    const progress = create(ProgressSchema, {
      scopes: this.takeStates(entries),
      steps: entries.map((entry) => entry.step),
      stopOrdinals: this.stopOrdinals,
      published: this.published,
      rejections: [...this.updates].slice(0, MOST_STEPS).map((updateId) => ({ updateId, failure: UNKNOWN_UPDATE })),
    });
    this.stopOrdinals = [];
    this.published = {};
    const left = this.untold + this.pending.length > 0 || this.updates.size > progress.rejections.length;
    if (!left) {
      progress.cancelOrdinals = this.cancelOrdinals;
      this.cancelOrdinals = [];
      if (end) this.tellEnd(progress, end, record);
    }
    progress.waiting = isQuiet && !left && !end;
    this.sent = progress;
    this.sentEntries = entries;
    this.toldWaiting = progress.waiting;
    return progress;
  }

  /** Takes in that what was sent is recorded. */
  answer(ordinals: readonly number[]): Entry[] {
    const entries = this.sentEntries;
    for (const { updateId } of this.sent?.rejections ?? []) this.updates.delete(updateId);
    this.sent = undefined;
    this.sentEntries = [];
    entries.forEach((entry, place) => {
      if (entry === this.lastMarker) this.lastMarker = undefined;
      const ordinal = ordinals[place];
      if (!entry.call || ordinal === undefined) return;
      entry.call.ordinal = ordinal;
      if (entry.call.forsaken) this.cancelOrdinals.push(ordinal);
      else if (entry.call.stopping) this.stopOrdinals.push(ordinal);
    });
    return entries;
  }

  private tellEnd(progress: Progress, end: End, record: Recorded): void {
    progress.end = end;
    if (end.case !== "complete" && end.case !== "continueAsNew") return;
    // The code has made all its calls: so branches are missed that it has not entered.
    progress.calls = this.calls;
    for (const path of record.left()) {
      progress.scopes.push(create(ScopeStateSchema, { scope: path, hash: EMPTY_HASH, closed: true }));
    }
  }

  /** Says where the branches stood before these steps, and takes the steps for told. */
  private takeStates(entries: readonly Entry[]): ScopeState[] {
    const states = new Map<Scope, ScopeState>();
    for (const { scope } of entries) if (!states.has(scope)) states.set(scope, scope.state());
    this.untold = 0;
    // A branch whose steps are yet to be sent is told of with them.
    const later = new Set(this.pending.map(({ scope }) => scope));
    for (const scope of this.noted) {
      if (states.has(scope) || later.has(scope)) continue;
      if (states.size < MOST_SCOPES) states.set(scope, scope.state());
      else this.untold++;
    }
    for (const entry of entries) {
      entry.scope.toldCount = entry.count;
      entry.scope.toldOrder = entry.order;
    }
    // A branch that has returned says so in the next one, if it has steps in this one, or still to send.
    this.noted = new Set([...this.noted].filter((scope) => !states.has(scope) || (scope.closed && !states.get(scope)!.closed)));
    return [...states.values()];
  }
}
