/** The worker: takes tasks off a stream, runs workflows and activities, and reports what came of them. */

import { hostname } from "node:os";

import { create } from "@bufbuild/protobuf";

import type { ActivityFunction } from "./activities.js";
import { uuid7 } from "./calls.js";
import type { Client } from "./client.js";
import type { WorkflowFunction } from "./execution.js";
import { type Hello, HelloSchema, TaskKind } from "./gen/stepwell/v1/workers_pb.js";
import type { Log } from "./held.js";
import { Outbox } from "./outbox.js";
import { Session } from "./session.js";
import { Tasks } from "./tasks.js";
import type { Milliseconds } from "./times.js";
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
  private readonly tasks: Tasks;
  private readonly session: Session;
  private hasBegun = false;
  private isLeaving = false;
  /** Fulfilled once the service has first said welcome. */
  readonly connected: Promise<void>;

  /** Prepares a worker; `run` connects it. */
  constructor(
    client: Client,
    private readonly options: WorkerOptions,
  ) {
    const { workflows = {}, activities = {}, log = QUIET } = options;
    const outbox = new Outbox();
    this.tasks = new Tasks(client, outbox, log, workflows, activities);
    this.session = new Session(() => client.connection(), helloOf(client.namespace, options), outbox, this.tasks, log);
    this.connected = this.session.connected.promise;
  }

  /**
   * Works until `shutdown` is called or the signal ends, either of which lets it finish what is in work first. Connects
   * again whenever the stream breaks. Throws when the service refuses the worker for good: a wrong key, an unknown
   * namespace. A worker runs once.
   */
  async run(options: { signal?: AbortSignal } = {}): Promise<void> {
    if (this.hasBegun) throw new Error("a worker runs once: make another one");
    this.hasBegun = true;
    const { signal } = options;
    const leave = () => this.shutdown();
    if (signal?.aborted) leave();
    signal?.addEventListener("abort", leave, { once: true });
    try {
      await this.session.run();
    } finally {
      signal?.removeEventListener("abort", leave);
      this.tasks.sessionLost();
    }
  }

  /** Lets `run` finish what is in work and return. Safe to repeat. */
  shutdown(): void {
    if (!this.isLeaving) void this.drain();
    this.isLeaving = true;
  }

  private async drain(): Promise<void> {
    this.session.drain();
    await this.tasks.leave(this.options.drainTime ?? 30_000);
    await this.tasks.release(ANSWER_TIME);
    this.session.close();
  }
}

function helloOf(namespace: string, options: WorkerOptions): Hello {
  const { taskQueues = ["default"], workflows = {}, activities = {}, buildId, compatibleBuildIds = [] } = options;
  const { maxRuns = 200, maxResidentRuns = 1000, maxActivities = 100 } = options;
  const identity = `${hostname()}/${process.pid}`;
  const runs = { kind: TaskKind.RUN, maxOutstanding: maxRuns, maxResident: maxResidentRuns };
  return create(HelloSchema, {
    namespace,
    workerId: options.workerId ?? `${identity}/${uuid7().slice(-8)}`,
    taskQueues: [...taskQueues],
    workflowTypes: Object.keys(workflows),
    activityTypes: Object.keys(activities),
    buildId,
    compatibleBuildIds: [...compatibleBuildIds],
    identity,
    sdk: SDK,
    capacity: { capacities: [runs, { kind: TaskKind.ACTIVITY, maxOutstanding: maxActivities }] },
  });
}
