/** Activities and jobs: what a worker performs. */

import { create } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";

import { ActivityCancelled, ApplicationError, failureOf, fromStatus, TaskLost } from "./errors.js";
import type { Payload } from "./gen/stepwell/v1/types_pb.js";
import {
  type Report,
  type ReportResult,
  ReportResult_Status as Status,
  type Task,
  type TaskHeartbeatResult,
  TaskHeartbeatSchema,
  type TaskRef,
} from "./gen/stepwell/v1/workers_pb.js";
import type { Outbox } from "./outbox.js";
import type { Converter } from "./payloads.js";
import type { Log } from "./roster.js";
import { jitter, milliseconds } from "./times.js";
import { spanning } from "./tracing.js";

export type ActivityFunction = (input: any, ctx: ActivityContext) => unknown;
type Outcome = Exclude<Report["outcome"], { case: undefined }>;

const RETRY_DELAY = 1000;
const BEAT_PAUSE = 5000;

/** What an activity's function learns of its attempt, and tells of it. */
export class ActivityContext {
  constructor(private readonly attempt: Attempt) {}

  /** Ends when the activity should stop, or its task is not this worker's any more. */
  get signal(): AbortSignal {
    return this.attempt.ending.signal;
  }

  /** The run's id; empty for a job. */
  get runId(): string {
    return this.attempt.task.runId;
  }

  /** The job's id; empty for an activity of a run. */
  get jobId(): string {
    return this.attempt.task.jobId;
  }

  /** From 1. */
  get number(): number {
    return this.attempt.task.attempt;
  }

  /** When the attempt times out, if it does. */
  get deadline(): Date | undefined {
    const { attemptDeadline } = this.attempt.task;
    return attemptDeadline && timestampDate(attemptDeadline);
  }

  /** What the attempt before told last; null if it told nothing. */
  get heartbeatDetails(): unknown {
    return this.attempt.performer.converter.fromPayload(this.attempt.task.heartbeatDetails);
  }

  /**
   * Says that the activity is alive, and how far it is; the next attempt gets the details. It does not wait, and may be
   * called as often as one likes: what comes faster than is needed goes out later.
   */
  heartbeat(details?: unknown): void {
    this.attempt.beat(details);
  }
}

/** One attempt at an activity or a job. */
class Attempt {
  readonly ref: TaskRef;
  readonly ending = new AbortController();
  isCancelled = false;
  isGone = false;
  private outcome: Outcome | undefined;
  private details: Payload | undefined;
  private hasBeat = false;
  private throttle: NodeJS.Timeout | undefined;
  private traceparent = "";

  constructor(
    readonly performer: Performer,
    readonly task: Task,
  ) {
    this.ref = task.ref!;
  }

  async perform(definition: ActivityFunction): Promise<void> {
    const { converter } = this.performer;
    try {
      const about: Record<string, string> = this.task.jobId
        ? { "stepwell.job": this.task.jobId }
        : { "stepwell.run_id": this.task.runId, "stepwell.step": this.task.stepName };
      const attributes = { "stepwell.attempt": this.task.attempt, ...about };
      const name = `stepwell.activity ${this.task.type}`;
      const value = await spanning(name, this.task.traceparent, attributes, async (traceparent) => {
        this.traceparent = traceparent;
        return definition(converter.fromPayload(this.task.input), new ActivityContext(this));
      });
      this.tell({ case: "complete", value: { $typeName: "stepwell.v1.CompleteActivity", result: converter.toPayload(value) } });
    } catch (error) {
      if (this.isGone) return;
      // What the next attempt needs to know goes out before it can begin.
      this.sendBeat();
      const isStopped = error === this.ending.signal.reason || (error instanceof Error && error.name === "AbortError");
      if (this.isCancelled && isStopped) {
        this.tell({ case: "cancelled", value: { $typeName: "stepwell.v1.CancelledActivity" } });
      } else {
        this.fail(error);
      }
    }
  }

  fail(error: unknown): void {
    const failure = failureOf(error, this.performer.converter);
    this.tell({ case: "fail", value: { $typeName: "stepwell.v1.FailActivity", failure } });
  }

  /** Reports what came of the attempt, unless it is somebody else's meanwhile. */
  tell(outcome: Outcome): void {
    if (this.isGone) return;
    this.outcome = outcome;
    clearTimeout(this.throttle);
    this.performer.outbox.report(this.ref, outcome, (result) => this.answered(result));
  }

  private answered(result: ReportResult): void {
    if (result.status === Status.REFUSED) {
      const error = fromStatus(result.error);
      this.performer.log.info(`the report of ${this.task.type} was refused: ${error.message}`);
      if (error.isPassing) {
        setTimeout(() => this.tell(this.outcome!), jitter(2 * (error.retryAfter ?? RETRY_DELAY)));
        return;
      }
      if (error.code === Code.InvalidArgument && this.outcome?.case !== "fail") {
        // What it came to can't be recorded, and would not be at another attempt.
        this.fail(new ApplicationError(error.message, { type: error.reason, nonRetryable: true }));
        return;
      }
    }
    this.performer.remove(this);
  }

  cancel(): void {
    this.isCancelled = true;
    this.ending.abort(new ActivityCancelled("the activity was asked to stop"));
  }

  /** Ends an attempt that is somebody else's now; nothing is reported. */
  lose(): void {
    this.isGone = true;
    this.ending.abort(new TaskLost("the task is not this worker's any more"));
    this.performer.remove(this);
  }

  release(reason: string): void {
    if (this.outcome) return;
    this.sendBeat();
    this.tell({ case: "release", value: { $typeName: "stepwell.v1.ReleaseTask", reason } });
    this.isGone = true;
    this.ending.abort(new TaskLost(reason));
  }

  beat(details: unknown): void {
    if (details !== undefined) this.details = this.performer.converter.toPayload(details);
    this.hasBeat = true;
    if (!this.throttle) this.breathe();
  }

  /** Sends what there is, and then nothing for a while. */
  private breathe(): void {
    this.throttle = undefined;
    if (!this.hasBeat || this.isGone || this.outcome) return;
    this.sendBeat();
    const { heartbeatTimeout } = this.task;
    const pause = heartbeatTimeout ? milliseconds(heartbeatTimeout) / 2 : BEAT_PAUSE;
    this.throttle = setTimeout(() => this.breathe(), pause).unref();
  }

  private sendBeat(): void {
    if (!this.hasBeat) return;
    this.hasBeat = false;
    const details = this.details && { details: this.details };
    const beat = create(TaskHeartbeatSchema, { ref: this.ref, traceparent: this.traceparent, ...details });
    this.performer.outbox.heartbeat(beat);
  }
}

/** Performs the activities and jobs of a worker. */
export class Performer {
  readonly running = new Map<string, Attempt>();
  private idlers: (() => void)[] = [];

  constructor(
    private readonly definitions: Readonly<Record<string, ActivityFunction>>,
    readonly converter: Converter,
    readonly outbox: Outbox,
    readonly log: Log,
  ) {}

  assign(task: Task): void {
    const attempt = new Attempt(this, task);
    this.running.get(attempt.ref.taskId)?.lose();
    this.running.set(attempt.ref.taskId, attempt);
    const definition = this.definitions[task.type];
    if (!definition) return attempt.release(`activity ${task.type} is not known here`);
    this.outbox.acknowledge(attempt.ref);
    void attempt.perform(definition);
  }

  private find(ref: TaskRef | undefined): Attempt | undefined {
    const attempt = ref && this.running.get(ref.taskId);
    return attempt?.ref.token === ref?.token ? attempt : undefined;
  }

  cancel(ref: TaskRef | undefined): void {
    this.find(ref)?.cancel();
  }

  revoke(ref: TaskRef | undefined): void {
    this.find(ref)?.lose();
  }

  beatAnswered(result: TaskHeartbeatResult): void {
    if (result.lost) this.revoke(result.ref);
    else if (result.cancelRequested) this.cancel(result.ref);
  }

  remove(attempt: Attempt): void {
    attempt.isGone = true;
    if (this.running.get(attempt.ref.taskId) === attempt) this.running.delete(attempt.ref.taskId);
    if (!this.running.size) for (const idler of this.idlers.splice(0)) idler();
  }

  async allEnded(): Promise<void> {
    while (this.running.size) await new Promise<void>((resolve) => this.idlers.push(resolve));
  }

  /** Gives back what is still under way: its attempt is not counted, and its functions are told to stop. */
  releaseAll(reason: string): void {
    for (const attempt of [...this.running.values()]) attempt.release(reason);
  }
}
