/**
 * A run that this worker has, between its code and the service.
 *
 * When no branch of the code is active the turn is over, and what is new goes out as one Progress. With nothing busy or
 * unrecorded either, the run says that it waits, and costs no slot until an Advance.
 */

import { create } from "@bufbuild/protobuf";

import { Code } from "./code.js";
import { RunCancelled } from "./errors.js";
import { failureOf } from "./failures.js";
import {
  type Advance,
  ProgressSchema,
  type ReportResult,
  type StepRecord,
  type Task,
  WorkerService,
} from "./gen/stepwell/v1/workers_pb.js";
import { Held } from "./held.js";
import { ContinueAsNew, type End } from "./outgoing.js";
import type { Converter } from "./payloads.js";
import { Queries } from "./queries.js";
import type { Tasks } from "./tasks.js";
import { within } from "./tracing.js";
import { WorkflowContext } from "./workflow.js";

/** A workflow: an async function of its context and its input. */
export type WorkflowFunction = (ctx: WorkflowContext, input: any) => Promise<unknown>;

/** One execution of a workflow's function. */
export class Execution extends Held {
  readonly converter: Converter;
  readonly queries: Queries;
  private readonly code: Code;
  private early: StepRecord[] | undefined;
  private end: End | undefined;
  private isPoked = false;
  private isLeaving = false;

  constructor(holder: Tasks, task: Task) {
    super(holder, task);
    this.converter = holder.client.converter;
    this.code = new Code(this);
    this.queries = new Queries(this, this.code.out, holder.outbox);
    if (task.moreSteps) this.early = [];
  }

  /** Runs the code. */
  begin(definition: WorkflowFunction): void {
    this.tellOfUpdates(this.task);
    void this.main(definition);
  }

  private async main(definition: WorkflowFunction): Promise<void> {
    if (this.early && !(await this.readSteps(this.early))) return;
    const { code, converter, task } = this;
    code.record.open(code.root);
    try {
      const input = converter.fromPayload(task.input);
      const value = await within(task.traceparent, () => definition(new WorkflowContext(this, code, code.root), input));
      this.end = { case: "complete", value: { $typeName: "stepwell.v1.CompleteRun", result: converter.toPayload(value) } };
    } catch (error) {
      this.end = this.endOf(error);
    }
    code.active--;
    this.poke();
  }

  private endOf(error: unknown): End {
    if (error instanceof ContinueAsNew) return { case: "continueAsNew", value: error.end };
    if (error instanceof RunCancelled) {
      const details = this.converter.toPayload(this.code.cancellation.reason || null);
      return { case: "cancelled", value: { $typeName: "stepwell.v1.CancelledRun", details } };
    }
    return { case: "fail", value: { $typeName: "stepwell.v1.FailRun", failure: failureOf(error, this.converter) } };
  }

  /** Reads the recorded steps that the task had no room for. What is told of them meanwhile is taken in after. */
  private async readSteps(early: StepRecord[]): Promise<boolean> {
    const { client, log } = this.holder;
    try {
      for (let { steps, moreSteps } = this.task as { steps: StepRecord[]; moreSteps: boolean }; moreSteps; ) {
        const request = { namespace: client.namespace, ref: this.ref, afterOrdinal: steps.at(-1)?.ordinal ?? 0 };
        ({ steps, moreSteps } = await client.invoke(client.stub(WorkerService).listTaskSteps, request));
        this.code.record.extend(steps);
      }
    } catch (error) {
      if (this.code.isOver) return false;
      log.warn(`the steps of run ${this.task.runId} could not be read: ${error}`);
      this.release("its steps could not be read");
      return false;
    }
    this.early = undefined;
    for (const record of early) this.code.feed(record);
    return !this.code.isOver;
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

  private turn(): void {
    const { code, end, queries } = this;
    const { out } = code;
    if (code.isOver || out.sent || (code.active > 0 && !end)) return;
    if (!end && code.cancellation.tell()) return this.poke();
    if (!code.active) queries.ready();
    // What another language's code has accepted is in the record, and may be told again all the same.
    for (const id of out.updates) if (code.record.hasAccepted(id)) out.updates.delete(id);
    const { isQuiet } = code;
    if (!end && !out.hasNews) {
      if (this.isLeaving && isQuiet) return this.release("the worker is leaving");
      if (out.toldWaiting || !isQuiet) return;
    }
    // The service compares the run's own line with the record at the end, whether it had calls of late or not.
    if (end) out.note(code.root);
    const progress = out.take(isQuiet, end, code.record);
    code.isOver = progress.end.case !== undefined;
    try {
      this.report({ case: "progress", value: progress });
    } catch (error) {
      this.fail(error as Error);
    }
  }

  /** Takes in an Advance: it costs a slot until the run says again that it waits. */
  advance(news: Advance): void {
    if (news.cancelRequested) this.cancel(news.cancelReason);
    this.tellOfUpdates(news);
    this.code.out.toldWaiting = false;
    if (this.early) this.early.push(...news.steps);
    else for (const record of news.steps) this.code.feed(record);
    this.poke();
  }

  /** Code in this language takes no updates: each is rejected in the next Progress. */
  private tellOfUpdates({ updates }: Task | Advance): void {
    for (const { updateId } of updates) this.code.out.updates.add(updateId);
  }

  protected recorded(result: ReportResult): void {
    if (this.code.isOver) return this.drop();
    this.code.answered(result.ordinals, result.steps);
    this.poke();
  }

  cancel(reason: string): void {
    this.code.cancellation.request(reason);
  }

  /** Gives the run back as soon as what its code is at has been recorded. */
  override leave(): void {
    this.isLeaving = true;
    this.poke();
  }

  protected stop(): void {
    this.code.stop();
  }

  protected fail(error: Error): void {
    this.stop();
    const failure = { ...failureOf(error, this.converter), nonRetryable: true };
    const end = { case: "fail", value: { $typeName: "stepwell.v1.FailRun", failure } } as const;
    this.report({ case: "progress", value: create(ProgressSchema, { end }) });
  }
}
