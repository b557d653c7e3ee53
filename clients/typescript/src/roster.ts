/** The runs in a worker's memory, and what passes between them and the stream. */

import { fromStatus } from "./errors.js";
import { Execution, type WorkflowFunction } from "./execution.js";
import {
  type Advance,
  type Progress,
  type Query,
  type ReportResult,
  ReportResult_Status as Status,
  type StepRecord,
  type Task,
  type TaskRef,
} from "./gen/stepwell/v1/workers_pb.js";
import type { Outbox } from "./outbox.js";
import type { Converter } from "./payloads.js";
import { isOwnFault, isStillHeld, Repeats } from "./repeats.js";

/** Where a worker says what it does. `console` will do. */
export interface Log {
  /** What is as it should be. */
  info(message: string): void;
  /** What the worker gets along with. */
  warn(message: string): void;
  /** What people should look at. */
  error(message: string): void;
}

/** Holds the runs of a worker. */
export class Roster {
  readonly runs = new Map<string, Execution>();
  private idlers: (() => void)[] = [];
  private isLeaving = false;

  constructor(
    private readonly definitions: Readonly<Record<string, WorkflowFunction>>,
    readonly converter: Converter,
    readonly outbox: Outbox,
    readonly log: Log,
    readonly readSteps: (task: Task) => Promise<StepRecord[]>,
  ) {}

  /** Takes a run, and runs its code from the top. One that it has already it acknowledges again. */
  assign(task: Task): void {
    const ref = task.ref!;
    const former = this.runs.get(ref.taskId);
    if (former && former.ref.token >= ref.token) {
      if (former.ref.token === ref.token) this.outbox.acknowledge(ref);
      return;
    }
    if (former) this.forget(former);
    if (this.isLeaving) return this.giveBack(ref, "the worker is leaving");
    const definition = this.definitions[task.type];
    if (!definition) return this.giveBack(ref, `workflow ${task.type} is not known here`);
    const run = new Execution(this, task);
    this.runs.set(ref.taskId, run);
    this.outbox.acknowledge(ref);
    run.turnDown(task.updates);
    run.begin(definition);
  }

  private find(ref: TaskRef | undefined): Execution | undefined {
    const run = ref && this.runs.get(ref.taskId);
    return run?.ref.token === ref?.token ? run : undefined;
  }

  advance(news: Advance): void {
    this.find(news.ref)?.advance(news);
  }

  ask(query: Query): void {
    this.find(query.ref)?.queries.ask(query);
  }

  cancel(ref: TaskRef | undefined, reason: string): void {
    this.find(ref)?.request(reason);
  }

  revoke(ref: TaskRef | undefined): void {
    const run = this.find(ref);
    if (run) this.forget(run);
  }

  report(run: Execution, progress: Progress): void {
    this.outbox.report(run.ref, { case: "progress", value: progress }, (result) => this.answered(run, result));
  }

  private answered(run: Execution, result: ReportResult): void {
    if (run.isDropped) return;
    if (result.status === Status.REFUSED) this.refused(run, result);
    else if (run.isEnded || run.isFailing) this.forget(run);
    else run.answered(result);
  }

  /** Sends a Progress again if that may help; fails the run if its content is at fault; else drops it. */
  private refused(run: Execution, result: ReportResult): void {
    const error = fromStatus(result.error);
    const { runId } = run.task;
    const pause = run.repeats.pauseAfter(error);
    if (pause !== undefined) {
      setTimeout(() => run.isDropped || !run.out.sent || this.report(run, run.out.sent), pause);
    } else if (isOwnFault(error) && !run.isFailing) {
      this.log.error(`run ${runId} fails, since its progress was refused: ${error.message}`);
      run.failWith(error);
    } else if (isStillHeld(error)) {
      this.log.error(`run ${runId} is given back: ${error.message}`);
      this.release(run, error.message);
    } else {
      if (error.reason === "STEP_ORDER_CHANGED") this.log.error(`run ${runId} is paused: ${error.message}`);
      else this.log.info(`run ${runId} is dropped: ${error.message}`);
      this.forget(run);
    }
  }

  /** Gives a run back to its queue. */
  release(run: Execution, reason: string): void {
    this.forget(run);
    this.giveBack(run.ref, reason);
  }

  private giveBack(ref: TaskRef, reason: string, repeats = new Repeats()): void {
    this.outbox.report(ref, { case: "release", value: { reason } }, (result) => {
      if (result.status !== Status.REFUSED) return;
      // Once more if it could not be taken just now: else the session would go on holding it.
      const pause = repeats.pauseAfter(fromStatus(result.error));
      if (pause !== undefined) setTimeout(() => this.giveBack(ref, reason, repeats), pause);
    });
  }

  /** Drops a run from memory. */
  forget(run: Execution): void {
    if (!run.isDropped) run.drop();
    if (this.runs.get(run.ref.taskId) === run) this.runs.delete(run.ref.taskId);
    if (!this.runs.size) for (const idler of this.idlers.splice(0)) idler();
  }

  /** Gives each run back as soon as what its code is at has been recorded. */
  leave(): void {
    this.isLeaving = true;
    for (const run of this.runs.values()) run.leave();
  }

  async allLeft(): Promise<void> {
    while (this.runs.size) await new Promise<void>((resolve) => this.idlers.push(resolve));
  }

  /** Gives back what is still held, whatever its code is at. */
  releaseAll(reason: string): void {
    for (const run of [...this.runs.values()]) this.release(run, reason);
  }
}
