/** All that a worker holds, and where what the service tells it comes in. */

import { type ActivityFunction, Attempt } from "./activities.js";
import type { Client } from "./client.js";
import { Execution, type WorkflowFunction } from "./execution.js";
import { type ConnectResponse, type Task, TaskKind, type TaskRef } from "./gen/stepwell/v1/workers_pb.js";
import type { Held, Log } from "./held.js";
import type { Outbox } from "./outbox.js";
import { delay, gate, type Milliseconds } from "./times.js";

const LEAVING = "the worker is leaving";

/** Holds the runs, activities and jobs of a worker. */
export class Tasks {
  private readonly tasks = new Map<string, Held>();
  private isLeaving = false;
  private emptied = gate();

  constructor(
    readonly client: Client,
    readonly outbox: Outbox,
    readonly log: Log,
    private readonly workflows: Readonly<Record<string, WorkflowFunction>>,
    private readonly activities: Readonly<Record<string, ActivityFunction>>,
  ) {}

  /** Names all that is held. */
  held(): TaskRef[] {
    return [...this.tasks.values()].map(({ ref }) => ref);
  }

  /** Takes in a message: assigns first, since all else that it says may be about them. */
  received(message: ConnectResponse): void {
    for (const task of message.assigns) this.assign(task);
    for (const { ref, reason } of message.cancels) this.find(ref)?.cancel(reason);
    for (const { ref } of message.revokes) this.find(ref)?.drop();
    for (const result of message.results) this.outbox.answer(result);
    for (const { ref, cancelRequested, lost } of message.heartbeats) {
      if (cancelRequested || lost) this.find(ref)?.cancel("", lost);
    }
    for (const news of message.advances) this.findRun(news.ref)?.advance(news);
    for (const query of message.queries) this.findRun(query.ref)?.queries.ask(query);
  }

  /** Begins a task. One that is held already is acknowledged again. */
  private assign(task: Task): void {
    const { taskId, token } = task.ref!;
    const former = this.tasks.get(taskId);
    if (former && former.ref.token >= token) {
      if (former.ref.token === token) this.outbox.acknowledge(former.ref);
      return;
    }
    former?.drop();
    if (task.kind === TaskKind.RUN) this.take(new Execution(this, task), this.workflows[task.type]);
    else this.take(new Attempt(this, task), this.activities[task.type]);
  }

  private take<D>(task: Held & { begin(definition: D): void }, definition: D | undefined): void {
    this.tasks.set(task.ref.taskId, task);
    if (this.isLeaving) return task.release(LEAVING);
    if (!definition) return task.release(`${task.task.type} is not known here`);
    this.outbox.acknowledge(task.ref);
    task.begin(definition);
  }

  private find(ref: TaskRef | undefined): Held | undefined {
    const task = ref && this.tasks.get(ref.taskId);
    return task?.ref.token === ref?.token ? task : undefined;
  }

  private findRun(ref: TaskRef | undefined): Execution | undefined {
    const task = this.find(ref);
    return task instanceof Execution ? task : undefined;
  }

  /** Forgets a task. */
  remove(task: Held): void {
    if (this.tasks.get(task.ref.taskId) === task) this.tasks.delete(task.ref.taskId);
    if (!this.tasks.size) this.emptied.open();
  }

  /** Drops what is not held any more, unless a report of it was never answered. */
  resumed(held: readonly TaskRef[]): void {
    const tokens = new Map(held.map(({ taskId, token }) => [taskId, token]));
    for (const task of [...this.tasks.values()]) {
      if (tokens.get(task.ref.taskId) !== task.ref.token && !task.said) task.drop();
    }
  }

  /** Drops everything: the session is over, and its leases with it. */
  sessionLost(): void {
    for (const task of [...this.tasks.values()]) task.drop();
  }

  /** Takes nothing more, and waits until all is done and answered, for at most so long. */
  async leave(most: Milliseconds): Promise<void> {
    this.isLeaving = true;
    for (const task of [...this.tasks.values()]) task.leave();
    await this.empty(most);
  }

  /**
   * Gives back what is still held, whatever its code is at, and waits for the answers, for at most so long. Of what a report
   * is under way nothing more is said: what is not over by that goes back with the session.
   */
  async release(most: Milliseconds): Promise<void> {
    for (const task of [...this.tasks.values()]) if (!task.said) task.release(LEAVING);
    await this.empty(most);
  }

  private async empty(most: Milliseconds): Promise<void> {
    if (!this.tasks.size) return;
    const timer = new AbortController();
    this.emptied = gate();
    await Promise.race([this.emptied.promise, delay(most, timer.signal)]);
    timer.abort();
  }
}
