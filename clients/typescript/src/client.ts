/** The client: starts runs and jobs, hears of their ends, and speaks with them. */

import { create, toBinary } from "@bufbuild/protobuf";
import type { Client as Stub } from "@connectrpc/connect";

import { type Connection, connect, invoke, type Method, once, stub, type Tls, uuid7 } from "./calls.js";
import { Coalescer } from "./coalescing.js";
import { fromStatus, RunError, ServiceError, StepError } from "./errors.js";
import { ClockService } from "./gen/stepwell/v1/clock_pb.js";
import { type Job as JobMessage, JobService, JobState, type StartJobRequest, StartJobRequestSchema } from "./gen/stepwell/v1/jobs_pb.js";
import { NamespaceService } from "./gen/stepwell/v1/namespaces_pb.js";
import {
  type Run as RunMessage,
  RunService,
  SignalRunRequestSchema,
  type SignalRunRequest,
  type SignalRunResponse,
  type StartRunRequest,
  StartRunRequestSchema,
  type StartRunResponse,
} from "./gen/stepwell/v1/runs_pb.js";
import { ScheduleService } from "./gen/stepwell/v1/schedules_pb.js";
import { WorkerService } from "./gen/stepwell/v1/workers_pb.js";
import { type Codec, type Converter, jsonConverter, withCodec } from "./payloads.js";
import { type RetryPolicy, spellRetry } from "./policies.js";
import { durationOf, type Milliseconds } from "./times.js";
import { currentTraceparent } from "./tracing.js";
import { type Awaited, resultOf, Watcher } from "./watching.js";

const WAIT = 15_000;

export interface ClientOptions {
  /** Where all happens. Default: "main". */
  namespace?: string;
  /** Default: that of the environment's STEPWELL_API_KEY. */
  apiKey?: string;
  /** Encrypts; `{}` takes the system's authorities. Default: nothing is encrypted. */
  tls?: Tls;
  /** How values are written. Default: as JSON. */
  converter?: Converter;
  /** Changes all payloads on their way, after they were converted. */
  codec?: Codec;
  /** Bounds a call and all its repeats. Default: 60,000. */
  callTimeout?: Milliseconds;
}

export interface StartOptions {
  /** The caller's name for the run: unique among the namespace's open runs. */
  workflowId?: string;
  /** The run's id, a UUID. */
  runId?: string;
  /** Makes a repeat of the start safe, also by another process. Default: one of this start's own. */
  requestId?: string;
  /** Default: "default". */
  taskQueue?: string;
  runTimeout?: Milliseconds;
  startDelay?: Milliseconds;
  /** 0 to 9; higher goes first. Default: 4. */
  priority?: number;
  /** Begins the run anew when its code fails. */
  retry?: RetryPolicy;
  /** Changes the request itself, for what has no option of its own. */
  request?: (request: StartRunRequest) => void;
}

export interface JobOptions {
  /** The caller's name for the job: unique among the namespace's open jobs. */
  uniqueKey?: string;
  taskQueue?: string;
  retry?: RetryPolicy;
  /** Changes the request itself, for what has no option of its own. */
  request?: (request: StartJobRequest) => void;
}

export class Client {
  readonly namespace: string;
  readonly converter: Converter;
  readonly watcher: Watcher;
  /** Each service's generated stub, for what this class has no method of its own for. */
  readonly runs: Stub<typeof RunService>;
  readonly jobs: Stub<typeof JobService>;
  readonly workers: Stub<typeof WorkerService>;
  readonly namespaces: Stub<typeof NamespaceService>;
  readonly schedules: Stub<typeof ScheduleService>;
  readonly clock: Stub<typeof ClockService>;
  private readonly own: Connection;
  private readonly callTimeout: Milliseconds;
  private readonly starts: Coalescer<StartRunRequest, StartRunResponse>;
  private readonly signals: Coalescer<SignalRunRequest, SignalRunResponse>;

  /** Makes a client of the service at an address such as "127.0.0.1:7233". It connects when it is first needed. */
  constructor(
    readonly address: string,
    private readonly options: ClientOptions = {},
  ) {
    this.namespace = options.namespace ?? "main";
    this.callTimeout = options.callTimeout ?? 60_000;
    const converter = options.converter ?? jsonConverter;
    this.converter = options.codec ? withCodec(converter, options.codec) : converter;
    this.own = this.connection();
    this.runs = stub(RunService, this.own);
    this.jobs = stub(JobService, this.own);
    this.workers = stub(WorkerService, this.own);
    this.namespaces = stub(NamespaceService, this.own);
    this.schedules = stub(ScheduleService, this.own);
    this.clock = stub(ClockService, this.own);
    this.watcher = new Watcher(this);
    const startSize = (request: StartRunRequest) => toBinary(StartRunRequestSchema, request).length;
    this.starts = new Coalescer((requests, trace) => this.sendStarts(requests, trace), startSize, this.callTimeout);
    const signalSize = (request: SignalRunRequest) => toBinary(SignalRunRequestSchema, request).length;
    this.signals = new Coalescer((requests, trace) => this.sendSignals(requests, trace), signalSize, this.callTimeout);
  }

  /** Makes a connection of its own to the same service. */
  connection(): Connection {
    const key = this.options.apiKey ?? process.env["STEPWELL_API_KEY"] ?? "";
    return connect(this.address, key, this.options.tls);
  }

  /** Ends the connection. What is still waited for fails. */
  close(): void {
    this.watcher.close();
    this.own.close();
  }

  /** Calls a method of a stub, and again what fails in passing. */
  invoke<Q, A>(method: Method<Q, A>, request: Q, signal?: AbortSignal): Promise<A> {
    return invoke(method, request, this.callTimeout, signal);
  }

  /**
   * Starts a run of a workflow by its type. It is recorded when this returns. Starts of one turn go out together. A repeat
   * after a lost answer is recognised, so that nothing is started twice.
   */
  async startRun(type: string, input?: unknown, options: StartOptions = {}): Promise<Run> {
    const runTimeout = durationOf(options.runTimeout);
    const startDelay = durationOf(options.startDelay);
    const request = create(StartRunRequestSchema, {
      type,
      input: this.converter.toPayload(input),
      ...(options.workflowId !== undefined && { workflowId: options.workflowId }),
      ...(options.runId !== undefined && { runId: options.runId }),
      ...(options.requestId !== undefined && { requestId: options.requestId }),
      ...(options.taskQueue !== undefined && { taskQueue: options.taskQueue }),
      ...(options.priority !== undefined && { priority: options.priority }),
      ...(options.retry && { retry: spellRetry(options.retry) }),
      ...(runTimeout && { runTimeout }),
      ...(startDelay && { startDelay }),
    });
    options.request?.(request);
    if (!request.requestId) {
      if (!request.runId && !request.debounce) request.runId = uuid7();
      request.requestId = request.runId || uuid7();
    }
    let expected = request.runId ? this.watcher.expect(request.runId) : undefined;
    try {
      const answer = await this.starts.submit(request, currentTraceparent());
      if (expected && answer.runId !== expected.id) {
        this.watcher.forget(expected);
        expected = undefined;
      }
      return new Run(this, answer.runId, expected);
    } catch (error) {
      this.watcher.forget(expected);
      throw error;
    }
  }

  /** Gives a handle of a run by its id. Nothing is asked of the service. */
  run(runId: string): Run {
    return new Run(this, runId);
  }

  /** Gives a handle of the open run of a workflow id, or else of its latest. */
  async runOf(workflowId: string): Promise<Run> {
    const { run } = await this.invoke(this.runs.getRun, { namespace: this.namespace, workflowId });
    return new Run(this, run!.runId);
  }

  /** Has an activity performed, without a run. It is recorded when this returns. */
  async startJob(type: string, input?: unknown, options: JobOptions = {}): Promise<Job> {
    const request = create(StartJobRequestSchema, {
      namespace: this.namespace,
      type,
      input: this.converter.toPayload(input),
      ...(options.uniqueKey !== undefined && { uniqueKey: options.uniqueKey }),
      ...(options.taskQueue !== undefined && { taskQueue: options.taskQueue }),
      ...(options.retry && { retry: spellRetry(options.retry) }),
    });
    options.request?.(request);
    if (!request.requestId) request.requestId = request.jobId ||= uuid7();
    const { jobId } = await this.invoke(this.jobs.startJob, request);
    return new Job(this, jobId);
  }

  /** Gives a handle of a job by its id. Nothing is asked of the service. */
  job(jobId: string): Job {
    return new Job(this, jobId);
  }

  /** @internal */
  signal(request: SignalRunRequest): Promise<SignalRunResponse> {
    return this.signals.submit(request, currentTraceparent());
  }

  private async sendStarts(requests: StartRunRequest[], trace: string): Promise<(StartRunResponse | ServiceError)[]> {
    const batch = { namespace: this.namespace, requests };
    const { results } = await this.batched(this.runs.batchStartRuns, batch, trace);
    return results.map(({ outcome }) => (outcome.case === "started" ? outcome.value : fromStatus(outcome.value)));
  }

  private async sendSignals(requests: SignalRunRequest[], trace: string): Promise<(SignalRunResponse | ServiceError)[]> {
    const batch = { namespace: this.namespace, requests };
    const { results } = await this.batched(this.runs.batchSignalRuns, batch, trace);
    return results.map(({ outcome }) => (outcome.case === "signalled" ? outcome.value : fromStatus(outcome.value)));
  }

  private async batched<Q, A>(method: Method<Q, A>, request: Q, traceparent: string): Promise<A> {
    const traced: Method<Q, A> = (each, options) =>
      method(each, traceparent ? { ...options, headers: { traceparent } } : options);
    return once(traced, request, Math.min(20_000, this.callTimeout));
  }
}

/** A handle of one run. */
export class Run {
  constructor(
    private readonly client: Client,
    /** Its own id, a UUID. */
    readonly id: string,
    private readonly expected?: Awaited,
  ) {}

  /**
   * Waits for the end of the run, or of the one that finally goes on with its work, and gives what it returned. Throws
   * RunError if it did not end well. One stream serves all waits of a client.
   */
  async result<T = unknown>(options: { signal?: AbortSignal } = {}): Promise<T> {
    const end = await this.client.watcher.wait(this.id, this.expected, options.signal);
    return this.client.converter.fromPayload(resultOf(end)) as T;
  }

  /** Reads the run as it is. */
  async describe(): Promise<RunMessage> {
    const { run } = await this.client.invoke(this.client.runs.getRun, this.name());
    return run!;
  }

  /** Tells the run something by a name. It is kept until the run's code takes it, and recorded once. */
  async signal(signalName: string, value?: unknown): Promise<void> {
    const payload = this.client.converter.toPayload(value);
    await this.client.signal(create(SignalRunRequestSchema, { runId: this.id, signalName, payload, requestId: uuid7() }));
  }

  /** Asks the run's code, or what it published if nobody has it in memory. */
  async query<T = unknown>(queryName: string, input?: unknown): Promise<T> {
    const { converter, runs } = this.client;
    const request = { ...this.name(), queryName, input: converter.toPayload(input) };
    const { result } = await this.client.invoke(runs.queryRun, request);
    return converter.fromPayload(result) as T;
  }

  /** Asks the run's code for a change, and gives what came of it. A repeat with the same id finds what is recorded. */
  async update<T = unknown>(updateName: string, input?: unknown, options: { updateId?: string } = {}): Promise<T> {
    const { converter, runs } = this.client;
    const updateId = options.updateId ?? uuid7();
    const request = { ...this.name(), updateName, updateId, input: converter.toPayload(input), wait: durationOf(WAIT)! };
    const { outcome } = await this.client.invoke(runs.updateRun, request);
    if (outcome.case === "failure" || outcome.case === "rejection") throw new StepError(updateName, outcome.value);
    return converter.fromPayload(outcome.value) as T;
  }

  /** Asks the run to end after its clean-up. False if it had ended. */
  async cancel(reason = ""): Promise<boolean> {
    return (await this.client.invoke(this.client.runs.cancelRun, { ...this.name(), reason })).accepted;
  }

  /** Ends the run at once, without clean-up. False if it had ended. */
  async terminate(reason = ""): Promise<boolean> {
    return (await this.client.invoke(this.client.runs.terminateRun, { ...this.name(), reason })).accepted;
  }

  private name(): { namespace: string; runId: string } {
    return { namespace: this.client.namespace, runId: this.id };
  }
}

/** A handle of one job: an activity without a run. */
export class Job {
  constructor(
    private readonly client: Client,
    /** Its own id, a UUID. */
    readonly id: string,
  ) {}

  /** Waits for the end of the job, and gives what it came to. Throws RunError if it did not end well. */
  async result<T = unknown>(options: { signal?: AbortSignal } = {}): Promise<T> {
    const { client } = this;
    for (;;) {
      const request = { namespace: client.namespace, jobId: this.id, wait: durationOf(WAIT)! };
      const { ended, job } = await client.invoke(client.jobs.waitJob, request, options.signal);
      if (!ended) continue;
      if (job!.state === JobState.COMPLETED) return client.converter.fromPayload(job!.result) as T;
      throw new RunError(this.id, JobState[job!.state]!, job!.failure);
    }
  }

  /** Reads the job as it is. */
  async describe(): Promise<JobMessage> {
    const { job } = await this.client.invoke(this.client.jobs.getJob, { namespace: this.client.namespace, jobId: this.id });
    return job!;
  }

  /** Asks the job to end. False if it had ended. */
  async cancel(reason = ""): Promise<boolean> {
    const request = { namespace: this.client.namespace, jobId: this.id, reason };
    return (await this.client.invoke(this.client.jobs.cancelJob, request)).accepted;
  }
}

