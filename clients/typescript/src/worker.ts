/** The worker: takes tasks off a stream, runs workflows and activities, and reports what came of them. */

import { hostname } from "node:os";

import { create } from "@bufbuild/protobuf";

import type { ActivityFunction } from "./activities.js";
import { uuid7 } from "./calls.js";
import type { Client } from "./client.js";
import type { WorkflowFunction } from "./execution.js";
import { type Hello, HelloSchema, type StepRecord, type Task, TaskKind } from "./gen/stepwell/v1/workers_pb.js";
import { Outbox } from "./outbox.js";
import { Performer } from "./performer.js";
import { Reception } from "./reception.js";
import { type Log, Roster } from "./roster.js";
import { Session } from "./session.js";
import { delay, type Milliseconds } from "./times.js";
import { SDK } from "./version.js";

const ANSWER_TIME = 5000;

/** What a worker does, and how much of it at once. */
export interface WorkerOptions {
  /** Where tasks come from. Default: "default". */
  taskQueues?: readonly string[];
  /** The workflows that it advances, by type. */
  workflows?: Readonly<Record<string, WorkflowFunction>>;
  /** The activities and jobs that it performs, by type. */
  activities?: Readonly<Record<string, ActivityFunction>>;
  /** How many activities and jobs it performs at once. Default: 100. */
  maxActivities?: number;
  /** How many runs it advances at once. Default: 200. */
  maxRuns?: number;
  /** How many waiting runs stay in memory besides. Default: 1,000. */
  maxResidentRuns?: number;
  /** Which build of the program this is. A run goes on with the build that last recorded something of it. */
  buildId?: string;
  /** Other builds whose runs this one's code can go on with. */
  compatibleBuildIds?: readonly string[];
  /** Stable over reconnects. Default: host, process and a random part. */
  workerId?: string;
  /** What it gives its work to end when it leaves, in milliseconds. Default: 30,000. */
  drainTime?: Milliseconds;
  /** Where it says what it does. Default: warnings and errors go to the console. */
  log?: Log;
}

const QUIET: Log = { info: () => {}, warn: (text) => console.warn(text), error: (text) => console.error(text) };

/**
 * Takes tasks of its queues, runs workflows and activities, and reports what came of them:
 *
 *     await new Worker(client, { workflows: { greet }, activities: { say } }).run();
 */
export class Worker {
  private readonly outbox = new Outbox();
  private readonly runs: Roster;
  private readonly tasks: Performer;
  private readonly reception: Reception;
  private readonly session: Session;
  private readonly leaving = new AbortController();
  /** Fulfilled once the service has first said welcome. */
  readonly connected: Promise<void>;

  /** Prepares a worker; `run` connects it. */
  constructor(
    private readonly client: Client,
    private readonly options: WorkerOptions,
  ) {
    const log = options.log ?? QUIET;
    this.runs = new Roster(options.workflows ?? {}, client.converter, this.outbox, log, (task) => this.readSteps(task));
    this.tasks = new Performer(options.activities ?? {}, client.converter, this.outbox, log);
    let greet!: () => void;
    this.connected = new Promise((resolve) => (greet = resolve));
    this.reception = new Reception(this.runs, this.tasks, this.outbox, greet, (within) => this.session.rotate(within));
    this.session = new Session(() => client.connection(), this.hello(), this.outbox, this.reception, log);
  }

  /**
   * Works until `shutdown` is called or the signal ends, either of which lets it finish what is in work first. Connects
   * again whenever the stream breaks. Throws when the service refuses the worker for good: a wrong key, an unknown
   * namespace. A worker runs once.
   */
  async run(options: { signal?: AbortSignal } = {}): Promise<void> {
    const { signal } = options;
    const leave = () => this.leaving.abort();
    if (signal?.aborted) leave();
    signal?.addEventListener("abort", leave, { once: true });
    const connected = this.session.run();
    const left = new Promise<void>((resolve) => {
      if (this.leaving.signal.aborted) resolve();
      else this.leaving.signal.addEventListener("abort", () => resolve(), { once: true });
    });
    try {
      await Promise.race([connected, left]);
      if (this.leaving.signal.aborted) await this.drain(connected);
      await connected;
    } finally {
      signal?.removeEventListener("abort", leave);
      this.reception.sessionLost();
    }
  }

  /** Lets `run` finish what is in work and return. Safe to repeat. */
  shutdown(): void {
    this.leaving.abort();
  }

  private async drain(connected: Promise<void>): Promise<void> {
    const over = connected.then(
      () => true,
      () => true,
    );
    this.session.drain();
    this.runs.leave();
    this.tasks.leave();
    const ended = Promise.all([this.runs.allLeft(), this.tasks.allEnded()]).then(() => true);
    const isIdle = await bounded([ended, over], this.options.drainTime ?? 30_000);
    if (!isIdle) {
      this.runs.releaseAll("the worker is leaving");
      this.tasks.releaseAll("the worker is leaving");
    }
    await bounded([this.outbox.allAnswered().then(() => true), over], ANSWER_TIME);
    this.session.close();
  }

  private hello(): Hello {
    const { options } = this;
    const identity = `${hostname()}/${process.pid}`;
    const workflowTypes = Object.keys(options.workflows ?? {});
    const activityTypes = Object.keys(options.activities ?? {});
    const runs = { kind: TaskKind.RUN, maxOutstanding: options.maxRuns ?? 200, maxResident: options.maxResidentRuns ?? 1000 };
    const activities = { kind: TaskKind.ACTIVITY, maxOutstanding: options.maxActivities ?? 100 };
    return create(HelloSchema, {
      namespace: this.client.namespace,
      workerId: options.workerId ?? `${identity}/${uuid7().slice(-8)}`,
      taskQueues: [...(options.taskQueues ?? ["default"])],
      workflowTypes,
      activityTypes,
      buildId: options.buildId ?? "",
      compatibleBuildIds: [...(options.compatibleBuildIds ?? [])],
      identity,
      sdk: SDK,
      capacity: { capacities: [...(workflowTypes.length ? [runs] : []), ...(activityTypes.length ? [activities] : [])] },
    });
  }

  /** Reads the recorded steps that a task had no room for. */
  private async readSteps(task: Task): Promise<StepRecord[]> {
    const records: StepRecord[] = [];
    let afterOrdinal = task.steps.at(-1)?.ordinal ?? 0;
    for (;;) {
      const request = { namespace: this.client.namespace, ref: task.ref!, afterOrdinal };
      const page = await this.client.invoke(this.client.workers.listTaskSteps, request);
      records.push(...page.steps);
      if (!page.moreSteps || !page.steps.length) return records;
      afterOrdinal = page.steps.at(-1)!.ordinal;
    }
  }
}

/** Waits for the first of several, for at most so long: false then. */
async function bounded(awaited: readonly Promise<boolean>[], most: Milliseconds): Promise<boolean> {
  const timer = new AbortController();
  try {
    return await Promise.race([...awaited, delay(most, timer.signal).then(() => false)]);
  } finally {
    timer.abort();
  }
}
