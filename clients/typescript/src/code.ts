/**
 * What a run's code calls, in all its branches: each call is answered from the record, or is a new step.
 *
 * A branch counts as active while its code may go on; code counts as busy while the function of a checkpoint runs, and as
 * unrecorded while it waits for a record and nothing else. Code that is over stays where it is, until it is forgotten.
 */

import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";

import { Cancellation } from "./cancellation.js";
import { RunCancelled } from "./errors.js";
import { failureOf } from "./failures.js";
import type { Execution } from "./execution.js";
import { type Failure, type Payload, StepKind, StepState } from "./gen/stepwell/v1/types_pb.js";
import { NewStepSchema, type StepRecord } from "./gen/stepwell/v1/workers_pb.js";
import { type Entry, Outgoing } from "./outgoing.js";
import { delayAfter, type RetryPolicy } from "./policies.js";
import { CALL, keyOf, Record as Recorded, Scope, type Step, WAIT } from "./scopes.js";
import { delay } from "./times.js";
import { WorkflowContext } from "./workflow.js";

/** What a new step is. */
export type Body = NonNullable<MessageInitShape<typeof NewStepSchema>["kind"]>;

/** A step that code waits for. */
export interface Call extends Step {
  readonly spell: () => Body;
  /** Whether it waits for the step's own end, also when the run is asked to cancel. */
  readonly patient?: boolean;
  scope?: Scope;
  ordinal?: number;
  ended?: boolean;
  forsaken?: boolean;
  stopping?: boolean;
  resolve?: (record: StepRecord) => void;
  reject?: (error: Error) => void;
}

/** What a function came to. */
export interface Result {
  result?: Payload;
  failure?: Failure;
}

type Checkpoint = (signal: AbortSignal) => Promise<Payload>;

/** Whether nothing more comes of a step. */
export function hasEnded(record: StepRecord): boolean {
  return record.state >= StepState.COMPLETED;
}

/** The code of one run. */
export class Code {
  readonly out = new Outgoing();
  readonly root = new Scope("");
  readonly scopes = new Set([this.root]);
  readonly record = new Recorded();
  readonly cancellation: Cancellation;
  active = 1;
  isOver = false;
  private readonly ending = new AbortController();
  private readonly open = new Map<string, Call>();
  private busy = 0;
  private unrecorded = 0;
  private isBroken = false;

  constructor(readonly run: Execution) {
    this.cancellation = new Cancellation(this, run.task.cancelRequested, run.task.cancelReason);
    this.record.extend(run.task.steps);
  }

  /** Whether nothing goes on until a step ends. */
  get isQuiet(): boolean {
    return !this.active && !this.busy && !this.unrecorded;
  }

  /** Has the code stay where it is. */
  stop(): void {
    this.isOver = true;
    this.open.clear();
    this.ending.abort();
  }

  block(): void {
    this.active--;
    if (!this.active) this.run.poke();
  }

  private async mustHold(): Promise<void> {
    if (this.isOver) await this.hold();
  }

  private hold(): Promise<never> {
    this.block();
    return new Promise(() => {});
  }

  /** Waits until the service has recorded a step. */
  private recorded(entry: Entry): Promise<void> {
    this.unrecorded++;
    return new Promise((resolve) => {
      entry.acks.push(() => {
        this.unrecorded--;
        this.active++;
        resolve();
      });
      this.block();
    });
  }

  /** Makes a call, and waits until its step has ended. */
  async await(scope: Scope, call: Call): Promise<StepRecord> {
    await this.mustHold();
    const known = this.recall(scope, call);
    if (known && hasEnded(known)) return known;
    if (!known) {
      this.addStep(scope, call, call.spell(), call);
    } else if (known.kind === call.kind) {
      call.ordinal = known.ordinal;
      this.open.set(keyOf(known), call);
    }
    scope.waiting = call;
    call.scope = scope;
    try {
      return await new Promise<StepRecord>((resolve, reject) => {
        call.resolve = resolve;
        call.reject = reject;
        this.block();
      });
    } finally {
      scope.waiting = undefined;
    }
  }

  /** Looks a call up in the record, and counts it if it is there. Throws RunCancelled where it is due. */
  recall(scope: Scope, step: Step): StepRecord | undefined {
    const { name, kind } = step;
    if (scope.waiting || scope.busy) {
      throw new Error(`${name}: this branch is at another call; use ctx.all or ctx.map, and its own context in each`);
    }
    if (scope.closed) throw new Error(`${name}: this branch has ended: a context is of no use outside of its function`);
    this.cancellation.meet(scope, CALL);
    const found = this.record.steps.get(scope.keyFor(step));
    if (!found) {
      if (this.cancellation.isDue && !scope.cancelSeen) throw this.cancellation.hear(scope, CALL);
      return undefined;
    }
    this.record.steps.delete(keyOf(found));
    this.out.replay(scope, step);
    this.cancellation.meet(scope, WAIT, found);
    if (found.kind === kind) {
      // The code got past any other.
      const isLast = scope.count === scope.recorded.length;
      const heard = isLast ? this.cancellation.atEnd(scope, found) : undefined;
      if (heard) throw heard;
      return found;
    }
    this.run.holder.log.error(`run ${this.run.task.runId}: step ${name} was recorded as another kind of step`);
    this.isBroken = true;
    this.run.poke();
    return { ...found, state: StepState.PENDING };
  }

  /** Counts a new step and puts it on its way. Throws for one that can't be written. */
  addStep(scope: Scope, { kind, name, key }: Step, body: Body, call?: Call): Entry {
    const step = { kind, name, key };
    const stepKey = scope.keyFor(step);
    const message = create(NewStepSchema, { scope: scope.path, name, key, occurrence: scope.occurrence(step), kind: body });
    const size = toBinary(NewStepSchema, message).length;
    scope.advance(step);
    const entry: Entry = { step: message, size, scope, call, count: scope.count, order: scope.order, acks: [] };
    this.out.add(entry);
    if (call) this.open.set(stepKey, call);
    else if (kind === StepKind.MARKER) this.out.lastMarker = entry;
    this.run.poke();
    return entry;
  }

  /** Answers a checkpoint from the record, or calls its function and has the result recorded. */
  async checkpoint(scope: Scope, step: Step, retry: RetryPolicy | undefined, call: Checkpoint): Promise<Result> {
    await this.mustHold();
    const known = this.recall(scope, step);
    if (known && hasEnded(known)) {
      const failed = known.state === StepState.FAILED || known.state === StepState.CANCELLED;
      return failed ? { failure: known.failure } : { result: known.result };
    }
    scope.busy = true;
    try {
      if (this.isBroken) await this.hold();
      // The function may act on a side effect's value, which must be the same when it runs again.
      if (this.out.lastMarker) await this.recorded(this.out.lastMarker);
      const value = await this.attempts(retry, call);
      await this.mustHold();
      await this.recorded(this.addStep(scope, step, { case: "local", value }));
      return value;
    } finally {
      scope.busy = false;
    }
  }

  /** Calls a function until it succeeds, or its policy says that it is enough. */
  private async attempts(retry: RetryPolicy | undefined, call: Checkpoint): Promise<Result> {
    this.busy++;
    this.block();
    try {
      for (let attempt = 1; ; attempt++) {
        try {
          return { result: await call(this.ending.signal) };
        } catch (error) {
          const failure = failureOf(error, this.run.converter);
          const pause = retry && delayAfter(retry, failure, attempt);
          if (pause === undefined) return { failure };
          await delay(pause, this.ending.signal);
          if (this.isOver) return { failure };
        }
      }
    } finally {
      this.busy--;
      this.active++;
    }
  }

  /**
   * Runs branches, numbered by their place whenever they start, at most `limit` at a time, and waits for all of them. Gives
   * what they came to, or throws: the run's cancellation, else the failure of the first in order.
   */
  async together<T>(
    scope: Scope,
    count: number,
    limit: number,
    shielded: boolean,
    begin: (place: number, ctx: WorkflowContext) => Promise<T>,
  ): Promise<T[]> {
    await this.mustHold();
    if (scope.waiting || scope.busy || scope.closed) throw new Error("this branch is at another call, or has ended");
    const first = scope.branches + 1;
    scope.branches += count;
    const results = new Array<T>(count);
    const errors = new Array<unknown>(count);
    if (!count) return results;
    scope.busy = true;
    let next = 0;
    const lane = async (): Promise<void> => {
      this.active++;
      while (next < count) {
        const place = next++;
        const branch = scope.branch(first + place, shielded);
        this.scopes.add(branch);
        this.record.open(branch);
        try {
          results[place] = await begin(place, new WorkflowContext(this.run, this, branch));
        } catch (error) {
          errors[place] = error;
        }
        // The service hears with the next Progress that it has returned.
        branch.closed = true;
        if (branch.count || branch.recorded.length) this.out.note(branch);
        this.scopes.delete(branch);
      }
      this.block();
    };
    const lanes = Array.from({ length: Math.min(limit, count) }, lane);
    this.block();
    await Promise.all(lanes);
    this.active++;
    scope.busy = false;
    const failed = errors.filter(() => true);
    const cancelled = failed.find((error) => error instanceof RunCancelled);
    if (cancelled) scope.cancelSeen = true;
    if (failed.length) throw cancelled ?? failed[0];
    return results;
  }

  /** Takes in a step that has ended; one that nobody waits for (yet) changes the record only. */
  feed(record: StepRecord): void {
    const key = keyOf(record);
    const call = this.open.get(key);
    if (!call) {
      if (this.record.steps.has(key)) this.record.steps.set(key, record);
      return;
    }
    if (!hasEnded(record)) return;
    this.open.delete(key);
    call.ended = true;
    if (!call.forsaken && call.resolve) {
      const heard = this.cancellation.atEnd(call.scope!, record);
      this.active++;
      if (heard) call.reject!(heard);
      else call.resolve(record);
    }
  }

  /** Takes in that the Progress under way is recorded, and steps that have ended with it. */
  answered(ordinals: readonly number[], steps: readonly StepRecord[]): void {
    for (const { acks } of this.out.answer(ordinals)) for (const ack of acks) ack();
    const before = this.open.size;
    for (const record of steps) this.feed(record);
    if (this.open.size !== before) this.out.toldWaiting = false;
  }
}
