/** The activities and jobs that a worker is at, and what passes between them and the stream. */

import { type ActivityFunction, Attempt, type Host } from "./activities.js";
import { ActivityCancelled, TaskLost } from "./errors.js";
import type { Task, TaskHeartbeatResult, TaskRef } from "./gen/stepwell/v1/workers_pb.js";
import type { Outbox } from "./outbox.js";
import type { Converter } from "./payloads.js";
import type { Log } from "./roster.js";

/** How long functions are begun in one turn of the loop: then what was said of the others goes out. */
const TURN = 10;

/** Performs the activities and jobs of a worker. */
export class Performer implements Host {
  readonly running = new Map<string, Attempt>();
  private readonly toBegin: (() => void)[] = [];
  private isBeginning = false;
  private isLeaving = false;
  private idlers: (() => void)[] = [];

  constructor(
    private readonly definitions: Readonly<Record<string, ActivityFunction>>,
    readonly converter: Converter,
    readonly outbox: Outbox,
    readonly log: Log,
  ) {}

  /** Begins an attempt. One that is under way already is acknowledged again. */
  assign(task: Task): void {
    const attempt = new Attempt(this, task);
    const { taskId, token } = attempt.ref;
    const former = this.running.get(taskId);
    if (former && former.ref.token >= token) {
      if (former.ref.token === token) this.outbox.acknowledge(former.ref);
      return;
    }
    former?.lose();
    this.running.set(taskId, attempt);
    if (this.isLeaving) return attempt.release("the worker is leaving");
    const definition = this.definitions[task.type];
    if (!definition) return attempt.release(`activity ${task.type} is not known here`);
    this.outbox.acknowledge(attempt.ref);
    this.toBegin.push(() => {
      if (!attempt.isGone) void attempt.perform(definition);
    });
    if (this.isBeginning) return;
    this.isBeginning = true;
    queueMicrotask(() => this.begin());
  }

  /** Begins what has come, with a turn for the loop in between if that takes long: acknowledgements wait for it. */
  private begin(): void {
    const end = performance.now() + TURN;
    do {
      this.toBegin.shift()?.();
    } while (this.toBegin.length && performance.now() < end);
    if (this.toBegin.length) setImmediate(() => this.begin());
    else this.isBeginning = false;
  }

  private find(ref: TaskRef | undefined): Attempt | undefined {
    const attempt = ref && this.running.get(ref.taskId);
    return attempt?.ref.token === ref?.token ? attempt : undefined;
  }

  cancel(ref: TaskRef | undefined): void {
    this.find(ref)?.stop(new ActivityCancelled("the activity was asked to stop"));
  }

  revoke(ref: TaskRef | undefined): void {
    this.find(ref)?.lose();
  }

  beatAnswered(result: TaskHeartbeatResult): void {
    // Its place is given back once something is reported of it.
    if (result.lost) this.find(result.ref)?.stop(new TaskLost("the task is not this worker's any more"));
    else if (result.cancelRequested) this.cancel(result.ref);
  }

  remove(attempt: Attempt): void {
    attempt.isGone = true;
    if (this.running.get(attempt.ref.taskId) === attempt) this.running.delete(attempt.ref.taskId);
    if (!this.running.size) for (const idler of this.idlers.splice(0)) idler();
  }

  /** Takes nothing more. */
  leave(): void {
    this.isLeaving = true;
  }

  async allEnded(): Promise<void> {
    while (this.running.size) await new Promise<void>((resolve) => this.idlers.push(resolve));
  }

  /** Gives back what is still under way: its attempt is not counted, and its functions are told to stop. */
  releaseAll(reason: string): void {
    for (const attempt of [...this.running.values()]) attempt.release(reason);
  }
}
