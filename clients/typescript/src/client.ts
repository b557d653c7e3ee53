/** The client: starts runs and jobs, hears of their ends, and speaks with them. */

import type { DescService } from "@bufbuild/protobuf";
import type { Client as Stub } from "@connectrpc/connect";

import { type Connection, connect, invoke, type Method, type Patience, stub, type Tls } from "./calls.js";
import { Coalescer } from "./coalescing.js";
import { JobService } from "./gen/stepwell/v1/jobs_pb.js";
import {
  RunService,
  SignalRunRequestSchema,
  type SignalRunResponse,
  StartRunRequestSchema,
  type StartRunResponse,
} from "./gen/stepwell/v1/runs_pb.js";
import { Job, type JobEnd, type JobOptions, spellJob, watchJobs } from "./jobs.js";
import { type Codec, type Converter, guarded, jsonConverter } from "./payloads.js";
import { Run, spellStart, type StartOptions } from "./runs.js";
import type { Milliseconds } from "./times.js";
import { Watcher } from "./watching.js";

const LONGEST_WAIT = 15_000;

/** How a client speaks with the service. */
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

/**
 * Starts runs and jobs, and speaks with them. One is enough for a program; it is safe to use from anywhere in it. What has
 * no method here is called by the generated stubs, best by `client.invoke(client.runs.listRuns, { … })`; `client.stub`
 * gives those of other services.
 */
export class Client {
  /** Where all happens. */
  readonly namespace: string;
  /** How values are written, the codec included. */
  readonly converter: Converter;
  /** @internal How long one call lets the service wait before it answers: less than the call may take. */
  readonly longestWait: Milliseconds;
  /** @internal */
  readonly watcher: Watcher;
  /** The generated stub of RunService. */
  readonly runs: Stub<typeof RunService>;
  /** The generated stub of JobService. */
  readonly jobs: Stub<typeof JobService>;
  private readonly own: Connection;
  private readonly closing = new AbortController();
  private readonly patience: Patience;
  private readonly starts: Coalescer<typeof StartRunRequestSchema, StartRunResponse>;
  /** @internal */
  readonly signals: Coalescer<typeof SignalRunRequestSchema, SignalRunResponse>;

  /** Makes a client of the service at an address such as "127.0.0.1:7233". It connects when it is first needed. */
  constructor(
    readonly address: string,
    private readonly options: ClientOptions = {},
  ) {
    this.namespace = options.namespace ?? "main";
    this.patience = { timeout: options.callTimeout ?? 60_000, closing: this.closing.signal };
    this.longestWait = Math.min(LONGEST_WAIT, this.patience.timeout / 2);
    this.converter = guarded(options.converter ?? jsonConverter, options.codec);
    this.own = this.connection();
    this.runs = this.stub(RunService);
    this.jobs = this.stub(JobService);
    this.watcher = new Watcher(this);
    const { namespace, patience, runs } = this;
    this.starts = new Coalescer(StartRunRequestSchema, runs.batchStartRuns, namespace, patience);
    this.signals = new Coalescer(SignalRunRequestSchema, runs.batchSignalRuns, namespace, patience);
  }

  /** Gives the generated stub of any service of Stepwell. */
  stub<T extends DescService>(service: T): Stub<T> {
    return stub(service, this.own);
  }

  /** Makes a connection of its own to the same service. */
  connection(): Connection {
    const key = this.options.apiKey ?? process.env["STEPWELL_API_KEY"] ?? "";
    return connect(this.address, key, this.options.tls);
  }

  /** Ends the connection. What is still waited for fails with ClientClosed. */
  close(): void {
    this.closing.abort();
    this.watcher.close();
    this.own.close();
  }

  /** Calls a method of a stub, and again what fails in passing. */
  invoke<Q, A>(method: Method<Q, A>, request: Q, signal?: AbortSignal): Promise<A> {
    return invoke(method, request, this.patience, signal);
  }

  /**
   * Starts a run of a workflow by its type. It is recorded when this returns. Starts of one turn go out together. A repeat
   * after a lost answer is recognised, so that nothing is started twice.
   */
  async startRun(type: string, input?: unknown, options: StartOptions = {}): Promise<Run> {
    const request = spellStart(type, this.converter.toPayload(input), options, this.watcher.ending);
    const expected = request.runId ? this.watcher.expect(request.runId) : undefined;
    let started = "";
    try {
      started = (await this.starts.submit(request)).runId;
      return new Run(this, started, expected?.id === started ? expected : undefined);
    } finally {
      if (expected && expected.id !== started) this.watcher.forget(expected);
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

  /** Has an activity performed, without a run. It is recorded when this returns. A repeat after a lost answer is recognised. */
  async startJob(type: string, input?: unknown, options: JobOptions = {}): Promise<Job> {
    const request = spellJob(this.namespace, type, this.converter.toPayload(input), options);
    const { jobId } = await this.invoke(this.jobs.startJob, request);
    return new Job(this, jobId);
  }

  /** Gives a handle of a job by its id. Nothing is asked of the service. */
  job(jobId: string): Job {
    return new Job(this, jobId);
  }

  /**
   * Tells of the ends of the namespace's jobs, in the order of their commits: from now on, which is when this returns, or
   * from a `cursor`. It goes on over a stream that breaks, until the loop over it is left or the signal ends.
   */
  watchJobs(options: { cursor?: string; signal?: AbortSignal } = {}): Promise<AsyncGenerator<JobEnd, void, void>> {
    return watchJobs(this, this.closing.signal, options.cursor, options.signal);
  }
}
