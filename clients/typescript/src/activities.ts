/** Attempts at activities and jobs. */

import { create } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";

import { ActivityCancelled, TaskLost } from "./errors.js";
import { failureOf } from "./failures.js";
import type { Payload } from "./gen/stepwell/v1/types_pb.js";
import { TaskHeartbeatSchema } from "./gen/stepwell/v1/workers_pb.js";
import { Held } from "./held.js";
import type { Outcome } from "./outbox.js";
import { spanning } from "./tracing.js";

/** What performs an activity or a job: a function, plain or async, of the input and of what there is to know besides. */
export type ActivityFunction = (input: any, ctx: ActivityContext) => unknown;

/** What an activity's function learns of its attempt, and tells of it. */
export interface ActivityContext {
  /** Ends when the activity should stop, or its task is not this worker's any more. */
  readonly signal: AbortSignal;
  /** The run's id; empty for a job. */
  readonly runId: string;
  /** The job's id; empty for an activity of a run. */
  readonly jobId: string;
  /** The caller's name for the run; empty for a job. */
  readonly workflowId: string;
  /** The activity's type. */
  readonly type: string;
  /** Which attempt this is, from 1. */
  readonly attempt: number;
  /** When the attempt times out, if it does. */
  readonly deadline: Date | undefined;
  /** What the attempt before told last; null if it told nothing. */
  readonly heartbeatDetails: unknown;
  /**
   * Says that the activity is alive, and how far it is; the next attempt gets the details. It does not wait, and may be
   * called as often as one likes: a few times a second the last one goes out. Throws ApplicationError, `PayloadTooLarge`,
   * for details of more than 2 MiB.
   */
  heartbeat(details?: unknown): void;
}

const toBegin: (() => void)[] = [];

/** Begins one function in a turn of the loop: what was said of the others goes out in between, above all that they came. */
function beginNext(): void {
  toBegin[0]!();
  toBegin.shift();
  if (toBegin.length) setImmediate(beginNext);
}

/** One attempt at an activity or a job. */
export class Attempt extends Held {
  private readonly ending = new AbortController();
  private isCancelled = false;
  private details: Payload | undefined;
  private traceparent = "";

  begin(definition: ActivityFunction): void {
    if (toBegin.push(() => void this.perform(definition)) === 1) setImmediate(beginNext);
  }

  private async perform(definition: ActivityFunction): Promise<void> {
    const { task, ending } = this;
    const { converter } = this.holder.client;
    try {
      ending.signal.throwIfAborted();
      const about: Record<string, string> = task.jobId
        ? { "stepwell.job": task.jobId }
        : { "stepwell.run_id": task.runId, "stepwell.step": task.stepName };
      const attributes = { "stepwell.attempt": task.attempt, ...about };
      const name = `stepwell.activity ${task.type}`;
      const value = await spanning(name, task.traceparent, attributes, async (traceparent) => {
        this.traceparent = traceparent;
        return definition(converter.fromPayload(task.input), this.context());
      });
      this.tell({ case: "complete", value: { $typeName: "stepwell.v1.CompleteActivity", result: converter.toPayload(value) } });
    } catch (error) {
      const isStopped = error === ending.signal.reason || (error instanceof Error && error.name === "AbortError");
      if (this.isCancelled && isStopped) this.tell({ case: "cancelled", value: { $typeName: "stepwell.v1.CancelledActivity" } });
      else this.tell(this.failed(error));
    }
  }

  private context(): ActivityContext {
    const { task, ending, holder } = this;
    const { runId, jobId, workflowId, type, attempt, attemptDeadline, heartbeatDetails } = task;
    return {
      signal: ending.signal,
      runId,
      jobId,
      workflowId,
      type,
      attempt,
      deadline: attemptDeadline && timestampDate(attemptDeadline),
      get heartbeatDetails() {
        return holder.client.converter.fromPayload(heartbeatDetails);
      },
      heartbeat: (details) => this.beat(details),
    };
  }

  /** Reports what came of the attempt, unless it is somebody else's meanwhile, or was given back. */
  private tell(outcome: Outcome): void {
    if (!this.isGone && !this.said) this.report(outcome);
  }

  private failed(error: unknown): Outcome {
    const failure = failureOf(error, this.holder.client.converter);
    return { case: "fail", value: { $typeName: "stepwell.v1.FailActivity", failure } };
  }

  private beat(details: unknown): void {
    if (this.isGone || this.said) return;
    const { client, outbox } = this.holder;
    if (details !== undefined) this.details = client.converter.toPayload(details);
    const { ref, traceparent } = this;
    outbox.heartbeat(create(TaskHeartbeatSchema, { ref, traceparent, details: this.details }));
  }

  cancel(_reason: string, isLost = false): void {
    this.isCancelled = true;
    this.ending.abort(isLost ? lost() : new ActivityCancelled("the activity was asked to stop"));
  }

  protected stop(): void {
    this.ending.abort(lost());
  }

  protected recorded(): void {
    this.remove();
  }

  protected fail(error: Error): void {
    this.report(this.failed(error));
  }
}

function lost(): TaskLost {
  return new TaskLost("the task is not this worker's any more");
}
