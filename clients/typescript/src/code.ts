/**
 * What a run's code calls, in all its branches: each call is answered from the record, or is a new step.
 *
 * A branch counts as active while its code may go on; code counts as busy while the function of a checkpoint runs, and as
 * unrecorded while it waits for a record and nothing else. Code that is over stays where it is, until it is forgotten.
 */

import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";

import { Cancellation } from "./cancellation.js";
import { ApplicationError, failureOf, RunCancelled } from "./errors.js";
import type { Execution } from "./execution.js";
import { type Failure, type Payload, StepKind, StepState } from "./gen/stepwell/v1/types_pb.js";
import { NewStepSchema, type StepRecord } from "./gen/stepwell/v1/workers_pb.js";
import { type Entry, Outgoing } from "./outgoing.js";
import { delayAfter, isFinal, type RetryPolicy } from "./policies.js";
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

  constructor(private readonly run: Execution) {
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

  /** Sees at the end of the turn whether there is something to tell. */
  poke(): void {
    this.run.poke();
  }

  go(): void {
    this.active++;
  }

  block(): void {
    this.active--;
    if (!this.active) this.poke();
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
        this.go();
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
      const body = call.spell();
      if (scope.shielded && body.case === "activity") (body.value as { shielded?: boolean }).shielded = true;
      this.addStep(scope, call, body, call);
    } else if (known.kind === call.kind) {
      call.ordinal = known.ordinal;
      this.open.set(keyOf(known), call);
    }
    scope.waiting = call;
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
      this.cancellation.hearAtCall(scope);
      return undefined;
    }
    this.record.steps.delete(keyOf(found));
    this.out.replay(scope, step);
    this.cancellation.meet(scope, WAIT, found);
    if (found.kind === kind) return found;
    this.run.holder.log.error(`run ${this.run.task.runId}: step ${name} was recorded as another kind of step`);
    this.isBroken = true;
    this.poke();
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
    this.poke();
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
          if (!retry || isFinal(retry, failure, attempt)) return { failure };
          const chosen = error instanceof ApplicationError ? error.retryAfter : undefined;
          await delay(chosen ?? delayAfter(retry, attempt), this.ending.signal);
          if (this.isOver) return { failure };
        }
      }
    } finally {
      this.busy--;
      this.go();
    }
  }

  /** Runs branches, numbered by their place whenever they start, at most `limit` at a time; waits for all of them. */
  async together<T>(
    scope: Scope,
    count: number,
    limit: number,
    shielded: boolean,
    begin: (place: number, ctx: WorkflowContext) => Promise<T>,
  ): Promise<PromiseSettledResult<T>[]> {
    await this.mustHold();
    if (scope.waiting || scope.busy || scope.closed) throw new Error("this branch is at another call, or has ended");
    const first = scope.branches + 1;
    scope.branch(first);
    scope.branches += count;
    const results: PromiseSettledResult<T>[] = new Array(count);
    if (!count) return results;
    scope.busy = true;
    let next = 0;
    const lane = async (): Promise<void> => {
      this.go();
      while (next < count) {
        const place = next++;
        const branch = new Scope(scope.branch(first + place), scope);
        if (shielded) branch.shielded = branch.cancelSeen = true;
        this.scopes.add(branch);
        this.record.open(branch);
        try {
          results[place] = { status: "fulfilled", value: await begin(place, new WorkflowContext(this.run, this, branch)) };
        } catch (reason) {
          results[place] = { status: "rejected", reason };
        }
        this.close(branch);
      }
      this.block();
    };
    const lanes = Array.from({ length: Math.min(limit, count) }, lane);
    this.block();
    await Promise.all(lanes);
    this.go();
    scope.busy = false;
    if (results.some((each) => each.status === "rejected" && each.reason instanceof RunCancelled)) scope.cancelSeen = true;
    return results;
  }

  /** Closes a branch that has returned; the service hears of it with the next Progress. */
  private close(scope: Scope): void {
    scope.closed = true;
    if (scope.count || scope.recorded.length) this.out.note(scope);
    this.scopes.delete(scope);
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
      this.go();
      call.resolve(record);
    }
  }

  /** Takes in that the Progress under way is recorded, and steps that have ended with it. Whether code hears of any. */
  answered(ordinals: readonly number[], steps: readonly StepRecord[]): boolean {
    for (const entry of this.out.answer(ordinals)) {
      for (const ack of entry.acks.splice(0)) ack();
    }
    const before = this.open.size;
    for (const record of steps) this.feed(record);
    return this.open.size !== before;
  }
}
