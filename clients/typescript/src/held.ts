/** What a worker holds: a run to advance, or an attempt at an activity or a job. */

import { ApplicationError } from "./errors.js";
import { fromStatus } from "./failures.js";
import {
  type ReportResult,
  ReportResult_Remedy as Remedy,
  ReportResult_Status as Status,
  type Task,
  type TaskRef,
} from "./gen/stepwell/v1/workers_pb.js";
import type { Outcome } from "./outbox.js";
import type { Tasks } from "./tasks.js";
import { milliseconds } from "./times.js";

/** Where a worker says what it does. `console` will do. */
export interface Log {
  /** What is as it should be. */
  info(message: string): void;
  /** What the worker gets along with. */
  warn(message: string): void;
  /** What people should look at. */
  error(message: string): void;
}

/** One task, from its assignment until nothing more is to be said of it. */
export abstract class Held {
  readonly ref: TaskRef;
  /** It is another's now, or has ended: nothing more is said of it. */
  isGone = false;
  /** What is reported and has not come to its answer. */
  said: Outcome | undefined;

  constructor(
    readonly holder: Tasks,
    readonly task: Task,
  ) {
    this.ref = task.ref!;
  }

  /** Somebody asked it to end, or (`isLost`) its worker is to give its place back: what it comes to is reported. */
  abstract cancel(reason: string, isLost?: boolean): void;
  /** The worker is leaving: what waits is given back, what is at work comes to its end. */
  leave(): void {}
  /** Has the code stop. */
  protected abstract stop(): void;
  /** What was reported is recorded. */
  protected abstract recorded(result: ReportResult): void;
  /** What was reported never will be: reports why, in its place. */
  protected abstract fail(error: Error): void;

  /** Reports what came of it. Throws what can't be sent. */
  protected report(outcome: Outcome): void {
    this.holder.outbox.report(this.ref, outcome, (result) => {
      if (this.said === outcome) this.answered(outcome, result);
    });
    this.said = outcome;
  }

  private answered(outcome: Outcome, result: ReportResult): void {
    if (result.status !== Status.REFUSED) {
      this.said = undefined;
      return outcome.case === "release" ? this.remove() : this.recorded(result);
    }
    const { log } = this.holder;
    const { reason, message } = fromStatus(result.error);
    const told = `what is reported of ${this.task.type} (${this.task.runId || this.task.jobId}) is refused: ${message}`;
    if (result.remedy === Remedy.REPEAT) {
      setTimeout(() => this.said === outcome && this.report(outcome), milliseconds(result.repeatDelay));
    } else if (result.remedy === Remedy.FAIL) {
      log.error(told);
      this.fail(new ApplicationError(message, { type: reason, nonRetryable: true }));
    } else {
      log[reason === "STEP_ORDER_CHANGED" ? "error" : "info"](told);
      this.drop();
    }
  }

  /** Gives it back to its queue. */
  release(reason: string): void {
    this.stop();
    this.report({ case: "release", value: { $typeName: "stepwell.v1.ReleaseTask", reason } });
  }

  /** Nothing more is to be said of it, and its code is of no use. */
  drop(): void {
    this.remove();
    this.stop();
  }

  /** Nothing more is to be said of it. */
  protected remove(): void {
    this.isGone = true;
    this.said = undefined;
    this.holder.remove(this);
  }
}
