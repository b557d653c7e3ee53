/** What can go wrong: refusals of the service, steps and runs that failed, and failures that code makes itself. */

import { Code } from "@connectrpc/connect";

import type { Failure } from "./gen/stepwell/v1/types_pb.js";

/** Canceled is what a server had not taken in yet when it ended: who cancels a call of its own gets no such error. */
const PASSING = [Code.Unavailable, Code.Aborted, Code.DeadlineExceeded, Code.Canceled];

/** A refusal of the service. */
export class ServiceError extends Error {
  override name = "ServiceError";

  constructor(
    /** The canonical code. */
    readonly code: Code,
    message: string,
    /** One of proto/stepwell/v1/error_reason.proto, such as `RUN_NOT_FOUND`. Empty if the service gave none. */
    readonly reason = "",
    /** The facts of the reason, such as the run's id. */
    readonly metadata: Readonly<Record<string, string>> = {},
    /** What is wrong with which field of the request. */
    readonly fields: Readonly<Record<string, string>> = {},
    /** The service's advice when to try again, in milliseconds. */
    readonly retryAfter?: number,
  ) {
    super(reason ? `${reason}: ${message}` : message);
  }

  /** Whether the same call may succeed a little later. */
  get isPassing(): boolean {
    return PASSING.includes(this.code) || (this.code === Code.ResourceExhausted && this.retryAfter !== undefined);
  }
}

/** What a call fails with whose client was closed. */
export class ClientClosed extends ServiceError {
  override name = "ClientClosed";

  constructor() {
    super(Code.FailedPrecondition, "the client was closed");
  }
}

/** A failure with a kind, made by workflow and activity code. */
export class ApplicationError extends Error {
  override name = "ApplicationError";
  /** Its kind, for programs and for retry policies. */
  readonly type: string;
  /** Whether another attempt can't help. */
  readonly nonRetryable: boolean;
  /** The delay before the next attempt, in milliseconds. */
  readonly retryAfter: number | undefined;
  /** What is kept with the failure. */
  readonly details: unknown;

  /**
   * `type` is the kind, for programs and for retry policies; `nonRetryable` says that another attempt can't help;
   * `retryAfter` is the delay before the next one in milliseconds; `details` are kept with the failure.
   */
  constructor(
    message: string,
    options: { type?: string; nonRetryable?: boolean; retryAfter?: number; details?: unknown; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause });
    this.type = options.type ?? "ApplicationError";
    this.nonRetryable = options.nonRetryable ?? false;
    this.retryAfter = options.retryAfter;
    this.details = options.details;
  }
}

/** What a call of a workflow throws for a step that failed for good. */
export class StepError extends Error {
  override name = "StepError";

  constructor(
    /** The step's name. */
    readonly step: string,
    /** Why it failed. */
    readonly failure: Failure,
  ) {
    super(`${step} failed: ${failure.type}: ${failure.message}`);
  }
}

/** What `result()` throws for a run or a job that did not end well. */
export class RunError extends Error {
  override name = "RunError";

  constructor(
    /** The run's or the job's. */
    readonly id: string,
    /** FAILED, CANCELLED, TERMINATED, TIMED_OUT, or PURGED if what it came to is archived or pruned. */
    readonly ended: string,
    /** Why, if it failed. */
    readonly failure?: Failure,
  ) {
    super(failure ? `${id} ended ${ended}: ${failure.type}: ${failure.message}` : `${id} ended ${ended}`);
  }
}

/**
 * The run was asked to cancel. Thrown once in each branch, where it waits or at its next call. Code may catch it and
 * clean up, with further calls; then it should throw it on.
 */
export class RunCancelled extends Error {
  override name = "RunCancelled";

  constructor(readonly reason: string) {
    super(reason ? `the run was asked to cancel: ${reason}` : "the run was asked to cancel");
  }
}

/** The time of a wait was over first. */
export class WaitTimeout extends Error {
  override name = "WaitTimeout";

  constructor(step: string) {
    super(`${step}: the time to wait was over first`);
  }
}

/** The reason of an activity's signal when it was asked to stop. */
export class ActivityCancelled extends Error {
  override name = "ActivityCancelled";
}

/** The reason of an activity's signal when its task is not this worker's any more. */
export class TaskLost extends Error {
  override name = "TaskLost";
}
