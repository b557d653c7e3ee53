/**
 * One execution of a workflow function.
 *
 * A branch counts as active while its code may go on; code counts as busy while the function of a checkpoint runs, and as
 * unrecorded while it waits for a record and nothing else. When none is active the turn is over, and what is new goes out
 * as one Progress. With nothing busy or unrecorded either, the run says that it waits, and costs no slot until an Advance.
 */

import { create, type MessageInitShape } from "@bufbuild/protobuf";

import { ApplicationError, failureOf, RunCancelled, type ServiceError } from "./errors.js";
import { type Failure, StepKind, StepState, type Payload } from "./gen/stepwell/v1/types_pb.js";
import {
  type Advance,
  type NewStep,
  NewStepSchema,
  ProgressSchema,
  type Query,
  type QueryAnswer,
  type ReportResult,
  type StepRecord,
  type Task,
  type TaskRef,
  type Update,
  UpdateRejectionSchema,
} from "./gen/stepwell/v1/workers_pb.js";
import { type End, type Entry, Outgoing } from "./outgoing.js";
import { type Converter, jsonPayload } from "./payloads.js";
import { isFinal, delayAfter, type RetryPolicy } from "./policies.js";
import { Queries, spellAnswer } from "./queries.js";
import { Repeats } from "./repeats.js";
import type { Roster } from "./roster.js";
import { CALL, CANCEL_MARK, keyOf, Record as Recorded, Scope, WAIT } from "./scopes.js";
import { delay } from "./times.js";
import { within } from "./tracing.js";
import { ContinueAsNew, WorkflowContext } from "./workflow.js";

/** What a new step is. */
export type Body = NonNullable<MessageInitShape<typeof NewStepSchema>["kind"]>;
/** A workflow: an async function of its context and its input. */
export type WorkflowFunction = (ctx: WorkflowContext, input: any) => Promise<unknown>;

/** A step that code waits for. */
export interface Call {
  readonly kind: StepKind;
  readonly name: string;
  readonly key: string;
  readonly spell: () => Body;
  readonly patient?: boolean;
  ordinal?: number;
  ended?: boolean;
  forsaken?: boolean;
  stopping?: boolean;
  resolve?: (record: StepRecord) => void;
  reject?: (error: Error) => void;
}

/** Whether nothing more comes of a step. */
export function hasEnded(record: StepRecord): boolean {
  return record.state >= StepState.COMPLETED;
}

/** A run that this worker has: its code, and what of it is recorded. */
export class Execution {
  readonly ref: TaskRef;
  readonly converter: Converter;
  readonly out = new Outgoing();
  readonly queries = new Queries(this);
  readonly root = new Scope("");
  readonly ending = new AbortController();
  readonly repeats = new Repeats();
  cancelDue: boolean;
  reason: string;
  caughtUp = false;
  isEnded = false;
  isFailing = false;
  isDropped = false;
  isLeaving = false;
  private isBroken = false;
  private readonly record = new Recorded();
  private readonly turnedDown = new Set<string>();
  private early: Map<string, StepRecord> | undefined;
  private readonly open = new Map<string, Call>();
  private readonly scopes = new Map<string, Scope>([["", this.root]]);
  private active = 0;
  private busy = 0;
  private unrecorded = 0;
  private end: End | undefined;
  private isPoked = false;

  constructor(
    private readonly roster: Roster,
    readonly task: Task,
  ) {
    this.ref = task.ref!;
    this.converter = roster.converter;
    this.cancelDue = task.cancelRequested;
    this.reason = task.cancelReason;
    this.record.extend(task.steps);
    if (task.moreSteps) this.early = new Map();
  }

  /** Runs the code. */
  begin(definition: WorkflowFunction): void {
    this.active = 1;
    void this.main(definition);
  }

  private async main(definition: WorkflowFunction): Promise<void> {
    if (this.early && !(await this.readSteps(this.early))) return;
    this.record.open(this.root);
    try {
      const input = this.converter.fromPayload(this.task.input);
      const context = new WorkflowContext(this, this.root);
      const value = await within(this.task.traceparent, () => definition(context, input));
      this.end = { case: "complete", value: { $typeName: "stepwell.v1.CompleteRun", result: this.converter.toPayload(value) } };
    } catch (error) {
      this.end = this.endOf(error);
    }
    this.active--;
    this.poke();
  }

  private endOf(error: unknown): End {
    if (error instanceof ContinueAsNew) return { case: "continueAsNew", value: error.end };
    if (error instanceof RunCancelled) {
      const details = this.converter.toPayload(this.reason || null);
      return { case: "cancelled", value: { $typeName: "stepwell.v1.CancelledRun", details } };
    }
    return { case: "fail", value: { $typeName: "stepwell.v1.FailRun", failure: failureOf(error, this.converter) } };
  }

  /** Reads the recorded steps that the task had no room for. */
  private async readSteps(early: Map<string, StepRecord>): Promise<boolean> {
    try {
      this.record.extend(await this.roster.readSteps(this.task));
    } catch (error) {
      if (this.isDropped) return false;
      this.roster.log.warn(`the steps of run ${this.task.runId} could not be read: ${error}`);
      this.roster.release(this, "its steps could not be read");
      return false;
    }
    this.early = undefined;
    for (const record of early.values()) this.feed(record);
    return !this.isDropped;
  }

  /** Sees at the end of the turn whether there is something to tell. */
  poke(): void {
    if (this.isPoked) return;
    this.isPoked = true;
    setImmediate(() => {
      this.isPoked = false;
      this.turn();
    });
  }

  // --- waiting ----------------------------------------------------------------------------------------------------------

  private block(): void {
    this.active--;
    if (!this.active) this.poke();
  }

  private go(): void {
    this.active++;
  }

  /** Code of a run that is somebody else's, or has ended, stays where it is, until it is forgotten. */
  private mustHold(): Promise<void> | undefined {
    if (!this.isDropped && !this.isEnded) return undefined;
    this.active--;
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

  // --- calls ------------------------------------------------------------------------------------------------------------

  /** Makes a call, and waits until its step has ended. */
  async await(scope: Scope, call: Call): Promise<StepRecord> {
    await this.mustHold();
    const known = this.recall(scope, call.kind, call.name, call.key, call);
    if (known && hasEnded(known)) return known;
    if (!known) {
      const body = call.spell();
      if (scope.shielded && body.case === "activity") (body.value as { shielded?: boolean }).shielded = true;
      this.addStep(scope, call.kind, call.name, call.key, body, call);
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
  recall(scope: Scope, kind: StepKind, name: string, key: string, call?: Call): StepRecord | undefined {
    if (scope.waiting || scope.busy) {
      throw new Error(`${name}: this branch is at another call; use ctx.all or ctx.map, and its own context in each`);
    }
    if (scope.closed) throw new Error(`${name}: this branch has ended: a context is of no use outside of its function`);
    this.meet(scope, CALL);
    const stepKey = scope.keyFor(name, key);
    const found = this.record.steps.get(stepKey);
    if (!found) {
      if (this.cancelDue && !scope.cancelSeen) throw this.hear(scope, CALL);
      return undefined;
    }
    this.record.steps.delete(stepKey);
    this.out.replay(scope, kind, name, key);
    this.meet(scope, WAIT, found);
    if (found.kind !== kind) {
      this.stray(`step ${name} was recorded as another kind of step`);
      return { ...found, state: StepState.PENDING };
    }
    if (call && !hasEnded(found)) {
      call.ordinal = found.ordinal;
      this.open.set(stepKey, call);
    }
    return found;
  }

  private stray(problem: string): void {
    this.roster.log.error(`run ${this.task.runId}: ${problem}`);
    this.isBroken = true;
    this.poke();
  }

  /** Counts a new step and puts it on its way. */
  addStep(scope: Scope, kind: StepKind, name: string, key: string, body: Body, call?: Call): Entry {
    const occurrence = key ? 0 : (scope.occurrences.get(name) ?? 0);
    const stepKey = scope.keyFor(name, key);
    scope.advance(kind, name, key);
    const step: NewStep = create(NewStepSchema, { scope: scope.path, name, key, occurrence, kind: body });
    const entry: Entry = { step, scope, call, count: scope.count, order: scope.order, acks: [] };
    this.out.add(entry);
    if (call) this.open.set(stepKey, call);
    else if (kind === StepKind.MARKER) this.out.lastMarker = entry;
    this.poke();
    return entry;
  }

  /** Whether a step of that name and key is recorded, and not called yet. */
  knows(scope: Scope, name: string, key: string): boolean {
    return this.record.steps.has(scope.keyFor(name, key));
  }

  /** Answers a checkpoint from the record, or calls its function and has the result recorded. */
  async checkpoint(
    scope: Scope,
    name: string,
    key: string,
    retry: RetryPolicy | undefined,
    call: (signal: AbortSignal) => Promise<Payload>,
  ): Promise<{ result?: Payload; failure?: Failure }> {
    await this.mustHold();
    const known = this.recall(scope, StepKind.LOCAL, name, key);
    if (known && hasEnded(known)) {
      const failed = known.state === StepState.FAILED || known.state === StepState.CANCELLED;
      return failed ? { failure: known.failure! } : { ...(known.result && { result: known.result }) };
    }
    scope.busy = true;
    try {
      if (this.isBroken) {
        this.block();
        await new Promise(() => {});
      }
      // The function may act on a side effect's value, which must be the same when it runs again.
      if (this.out.lastMarker) await this.recorded(this.out.lastMarker);
      const body = await this.outside(() => this.attempts(retry, call));
      await this.mustHold();
      await this.recorded(this.addStep(scope, StepKind.LOCAL, name, key, { case: "local", value: body }));
      return body;
    } finally {
      scope.busy = false;
    }
  }

  private async outside<T>(act: () => Promise<T>): Promise<T> {
    this.busy++;
    this.block();
    try {
      return await act();
    } finally {
      this.busy--;
      this.go();
    }
  }

  /** Calls a function until it succeeds, or its policy says that it is enough. */
  private async attempts(
    retry: RetryPolicy | undefined,
    call: (signal: AbortSignal) => Promise<Payload>,
  ): Promise<{ result?: Payload; failure?: Failure }> {
    for (let attempt = 1; ; attempt++) {
      try {
        return { result: await call(this.ending.signal) };
      } catch (error) {
        const failure = failureOf(error, this.converter);
        if (!retry || isFinal(retry, failure, attempt)) return { failure };
        const chosen = error instanceof ApplicationError ? error.retryAfter : undefined;
        await delay(chosen ?? delayAfter(retry, attempt), this.ending.signal);
        if (this.isDropped) return { failure };
      }
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
    let left = count;
    await new Promise<void>((resolve) => {
      const run = async (place: number, branch: Scope): Promise<void> => {
        try {
          results[place] = { status: "fulfilled", value: await begin(place, new WorkflowContext(this, branch)) };
        } catch (reason) {
          results[place] = { status: "rejected", reason };
        }
        this.close(branch);
        left--;
        fill();
        if (!left) {
          this.go();
          resolve();
        }
        this.block();
      };
      const fill = (): void => {
        while (next < count && next - (count - left) < limit) {
          const branch = new Scope(scope.branch(first + next), scope);
          if (shielded) branch.shielded = branch.cancelSeen = true;
          this.scopes.set(branch.path, branch);
          this.record.open(branch);
          this.go();
          void run(next++, branch);
        }
      };
      fill();
      this.block();
    });
    scope.busy = false;
    if (results.some((each) => each.status === "rejected" && each.reason instanceof RunCancelled)) scope.cancelSeen = true;
    return results;
  }

  /** Closes a branch that has returned; the service hears of it with the next Progress. */
  private close(scope: Scope): void {
    scope.closed = true;
    if (scope.count || scope.recorded.length) this.out.note(scope);
    this.scopes.delete(scope.path);
  }

  // --- cancellation -----------------------------------------------------------------------------------------------------

  request(reason: string): void {
    this.cancelDue = true;
    this.reason = reason;
    this.poke();
  }

  /**
   * Throws the cancellation again where the record has it. `givenUp` is the step that the branch waited for: if that is
   * open, the worker before was lost between the two.
   */
  private meet(scope: Scope, place: string, givenUp?: StepRecord): void {
    const mark = scope.marks.get(scope.count);
    if (mark?.name !== CANCEL_MARK || mark.result?.body.value !== place) return;
    scope.marks.delete(scope.count);
    if (givenUp && !hasEnded(givenUp)) {
      this.out.cancelOrdinals.push(givenUp.ordinal);
      this.poke();
    }
    this.record.steps.delete(keyOf(mark));
    this.out.replay(scope, mark.kind, mark.name, mark.key);
    scope.cancelSeen = true;
    throw new RunCancelled(this.reason);
  }

  /** Records that a branch hears of the cancellation here. */
  private hear(scope: Scope, place: string): RunCancelled {
    scope.cancelSeen = true;
    this.addStep(scope, StepKind.MARKER, CANCEL_MARK, "", { case: "marker", value: { value: jsonPayload(place) } });
    return new RunCancelled(this.reason);
  }

  /** Lets all branches hear of it that wait for a step, but for those that wait for an activity's own end first. */
  private tellCancellation(): boolean {
    if (!this.cancelDue) return false;
    let told = false;
    for (const scope of this.scopes.values()) {
      const call = scope.waiting;
      if (scope.cancelSeen || !call || call.ended) continue;
      if (call.patient) {
        this.out.stop(call);
        continue;
      }
      const error = this.hear(scope, WAIT);
      if (!call.forsaken) this.out.giveUp(call);
      this.go();
      call.reject!(error);
      told = true;
    }
    return told;
  }

  // --- between the code and the service ---------------------------------------------------------------------------------

  /** Takes in a step that has ended; one that nobody waits for (yet) changes the record only. */
  private feed(record: StepRecord): void {
    const key = keyOf(record);
    if (this.early) {
      this.early.set(key, record);
      return;
    }
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

  /** Takes in an Advance: it costs a slot until the run says again that it waits. */
  advance(news: Advance): void {
    if (news.cancelRequested) this.request(news.cancelReason);
    this.turnDown(news.updates);
    this.out.toldWaiting = false;
    for (const record of news.steps) this.feed(record);
    this.poke();
  }

  /** Rejects updates: code in this language takes none. */
  turnDown(updates: readonly Update[]): void {
    for (const { updateId } of updates) {
      // What another language's code has accepted is in the record, and may be told again all the same.
      if (this.turnedDown.has(updateId) || this.record.hasAccepted(updateId)) continue;
      this.turnedDown.add(updateId);
      const failure = { message: "the code takes no updates", type: "UnknownUpdate", nonRetryable: true };
      this.out.rejections.push(create(UpdateRejectionSchema, { updateId, failure }));
    }
  }

  /** Takes in that the Progress under way is recorded. */
  answered(result: ReportResult): void {
    const { sent } = this.out;
    for (const { updateId } of sent?.rejections ?? []) this.turnedDown.delete(updateId);
    for (const entry of this.out.answer(result.ordinals)) {
      for (const ack of entry.acks.splice(0)) ack();
    }
    const before = this.open.size;
    for (const record of result.steps) this.feed(record);
    if (this.open.size !== before) this.out.toldWaiting = false;
    this.poke();
  }

  private turn(): void {
    if (this.isDropped || this.isEnded || this.out.sent) return;
    const end = this.end;
    if (this.active > 0 && !end) return;
    if (!end && this.tellCancellation()) return this.poke();
    if (!this.active && !this.caughtUp && !this.early) {
      this.caughtUp = true;
      this.queries.ready();
    }
    const isQuiet = !this.active && !this.busy && !this.unrecorded;
    const hasNews = this.out.hasSteps || this.queries.hasNews;
    if (this.isLeaving && isQuiet && !hasNews && !end) {
      this.roster.release(this, "the worker is leaving");
      return;
    }
    if (!end && !hasNews && (this.out.toldWaiting || !isQuiet)) return;
    // The service compares the run's own line with the record at the end, whether it had calls of late or not.
    if (end) this.out.note(this.root);
    const progress = this.out.take(isQuiet, end, this.record, this.queries.take());
    this.isEnded = progress.end.case !== undefined;
    this.roster.report(this, progress);
  }

  /** Gives the run back as soon as what its code is at has been recorded. */
  leave(): void {
    this.isLeaving = true;
    this.poke();
  }

  /** Stops the code: the run is somebody else's now, or has ended. Nothing more is told, and what waits stays so. */
  drop(): void {
    this.isDropped = true;
    this.open.clear();
    this.ending.abort();
  }

  /** Answers a query. */
  answer(query: Query, outcome: QueryAnswer["outcome"]): void {
    this.roster.outbox.answerQuery(spellAnswer(query, outcome));
  }

  /** What fails a run whose progress was refused for its content. */
  failWith(error: ServiceError): void {
    this.isFailing = this.isEnded = true;
    this.ending.abort();
    const failure = failureOf(new ApplicationError(error.message, { type: error.reason, nonRetryable: true }), this.converter);
    this.out.sent = create(ProgressSchema, { end: { case: "fail", value: { failure } } });
    this.roster.report(this, this.out.sent);
  }
}
