/** Attempts at activities and jobs: each from its assignment to the answer to its report. */

import { create } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { ApplicationError, failureOf, fromStatus, type ServiceError, TaskLost } from "./errors.js";
import type { Payload } from "./gen/stepwell/v1/types_pb.js";
import {
  type Report,
  ReportResult_Status as Status,
  type Task,
  TaskHeartbeatSchema,
  type TaskRef,
} from "./gen/stepwell/v1/workers_pb.js";
import type { Outbox } from "./outbox.js";
import type { Converter } from "./payloads.js";
import { isOwnFault, isStillHeld, Repeats } from "./repeats.js";
import type { Log } from "./roster.js";
import { milliseconds } from "./times.js";
import { spanning } from "./tracing.js";

/** What performs an activity or a job: a function, plain or async, of the input and of what there is to know besides. */
export type ActivityFunction = (input: any, ctx: ActivityContext) => unknown;
type Outcome = Exclude<Report["outcome"], { case: undefined }>;

const BEAT_PAUSE = 1000;
const BEATS_A_TIMEOUT = 3;
/** The service ends the stream of a worker whose heartbeats have more. */
const MOST_DETAILS = 2 * 1024 * 1024;

/** What an activity's function learns of its attempt, and tells of it. */
export class ActivityContext {
  constructor(private readonly given: Attempt) {}

  /** Ends when the activity should stop, or its task is not this worker's any more. */
  get signal(): AbortSignal {
    return this.given.ending.signal;
  }

  /** The run's id; empty for a job. */
  get runId(): string {
    return this.given.task.runId;
  }

  /** The job's id; empty for an activity of a run. */
  get jobId(): string {
    return this.given.task.jobId;
  }

  /** The caller's name for the run; empty for a job. */
  get workflowId(): string {
    return this.given.task.workflowId;
  }

  /** The activity's type. */
  get type(): string {
    return this.given.task.type;
  }

  /** Which attempt this is, from 1. */
  get attempt(): number {
    return this.given.task.attempt;
  }

  /** When the attempt times out, if it does. */
  get deadline(): Date | undefined {
    const { attemptDeadline } = this.given.task;
    return attemptDeadline && timestampDate(attemptDeadline);
  }

  /** What the attempt before told last; null if it told nothing. */
  get heartbeatDetails(): unknown {
    return this.given.host.converter.fromPayload(this.given.task.heartbeatDetails);
  }

  /**
   * Says that the activity is alive, and how far it is; the next attempt gets the details. It does not wait, and may be
   * called as often as one likes: what comes faster than is needed goes out later. Throws RangeError for details of more
   * than 2 MiB.
   */
  heartbeat(details?: unknown): void {
    this.given.beat(details);
  }
}

/** Where attempts are under way. */
export interface Host {
  readonly converter: Converter;
  readonly outbox: Outbox;
  readonly log: Log;
  /** Forgets an attempt of which nothing more is to be said. */
  remove(attempt: Attempt): void;
}

/** One attempt at an activity or a job. */
export class Attempt {
  readonly ref: TaskRef;
  readonly ending = new AbortController();
  isCancelled = false;
  isGone = false;
  private readonly repeats = new Repeats();
  private outcome: Outcome | undefined;
  private isPlain = false;
  private details: Payload | undefined;
  private hasBeat = false;
  private throttle: NodeJS.Timeout | undefined;
  private traceparent = "";

  constructor(
    readonly host: Host,
    readonly task: Task,
  ) {
    this.ref = task.ref!;
  }

  async perform(definition: ActivityFunction): Promise<void> {
    const { converter } = this.host;
    try {
      this.ending.signal.throwIfAborted();
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
        this.tell(this.failed(error));
      }
    }
  }

  private failed(error: unknown): Outcome {
    const failure = failureOf(error, this.host.converter);
    return { case: "fail", value: { $typeName: "stepwell.v1.FailActivity", failure } };
  }

  /** Reports what came of the attempt, unless it is somebody else's meanwhile, or was given back. */
  private tell(outcome: Outcome): void {
    if (!this.isGone && !this.outcome) this.report(outcome);
  }

  private report(outcome: Outcome): void {
    if (this.isGone) return;
    this.outcome = outcome;
    clearTimeout(this.throttle);
    this.host.outbox.report(this.ref, outcome, (result) => {
      if (result.status !== Status.REFUSED || !this.goesOn(outcome, fromStatus(result.error))) this.host.remove(this);
    });
  }

  /** Says what else there is to say after a refusal. False if there is nothing. */
  private goesOn(outcome: Outcome, error: ServiceError): boolean {
    this.host.log.info(`the report of ${this.task.type} was refused: ${error.message}`);
    const pause = this.repeats.pauseAfter(error);
    if (pause !== undefined) {
      setTimeout(() => this.report(outcome), pause);
    } else if (outcome.case === "release") {
      return false;
    } else if (isOwnFault(error) && !this.isPlain) {
      // What it came to can't be recorded, and would not be at another attempt.
      this.isPlain = true;
      this.report(this.failed(new ApplicationError(error.message, { type: error.reason, nonRetryable: true })));
    } else if (isStillHeld(error)) {
      this.report(released(error.message));
    } else {
      return false;
    }
    return true;
  }

  /** Tells the function to stop; what it comes to is reported. */
  stop(reason: Error): void {
    this.isCancelled = true;
    this.ending.abort(reason);
  }

  /** Ends an attempt that is somebody else's now; nothing is reported. */
  lose(): void {
    this.isGone = true;
    this.ending.abort(new TaskLost("the task is not this worker's any more"));
    this.host.remove(this);
  }

  release(reason: string): void {
    if (this.outcome) return;
    this.sendBeat();
    this.report(released(reason));
    this.ending.abort(new TaskLost(reason));
  }

  beat(details: unknown): void {
    if (details !== undefined) {
      const payload = this.host.converter.toPayload(details);
      const size = payload.body.case === undefined ? 0 : Buffer.byteLength(payload.body.value as string | Uint8Array);
      if (size > MOST_DETAILS) throw new RangeError(`a heartbeat's details have at most ${MOST_DETAILS} bytes, not ${size}`);
      this.details = payload;
    }
    this.hasBeat = true;
    if (!this.throttle) this.breathe();
  }

  /** Sends what there is, and then nothing for a while. */
  private breathe(): void {
    this.throttle = undefined;
    if (!this.hasBeat || this.isGone || this.outcome) return;
    this.sendBeat();
    const { heartbeatTimeout } = this.task;
    const longest = heartbeatTimeout ? milliseconds(heartbeatTimeout) / BEATS_A_TIMEOUT : BEAT_PAUSE;
    const pause = Math.min(BEAT_PAUSE, longest);
    this.throttle = setTimeout(() => this.breathe(), pause).unref();
  }

  private sendBeat(): void {
    if (!this.hasBeat) return;
    this.hasBeat = false;
    const details = this.details && { details: this.details };
    const beat = create(TaskHeartbeatSchema, { ref: this.ref, traceparent: this.traceparent, ...details });
    this.host.outbox.heartbeat(beat);
  }
}

function released(reason: string): Outcome {
  return { case: "release", value: { $typeName: "stepwell.v1.ReleaseTask", reason } };
}
