/** Runs as their starter sees them: how one is started, and a handle of it. */

import { create } from "@bufbuild/protobuf";

import { uuid7 } from "./calls.js";
import type { Client } from "./client.js";
import { StepError } from "./errors.js";
import {
  type Run as RunMessage,
  SignalRunRequestSchema,
  type StartRunRequest,
  StartRunRequestSchema,
} from "./gen/stepwell/v1/runs_pb.js";
import type { Payload } from "./gen/stepwell/v1/types_pb.js";
import { type RetryPolicy, spellRetry, type Start } from "./policies.js";
import { durationOf, type Milliseconds } from "./times.js";
import { type Awaited, resultOf } from "./watching.js";

/** How a run is started. */
export interface StartOptions extends Start {
  /** The caller's name for the run: unique among the namespace's open runs. */
  workflowId?: string;
  /** The run's id, a UUID. */
  runId?: string;
  /** How long it may take. Default: no limit. */
  runTimeout?: Milliseconds;
  /** Begins the run anew when its code fails. */
  retry?: RetryPolicy;
  /** Changes the request itself, for what has no option of its own. */
  request?: (request: StartRunRequest) => void;
}

/** Spells a start, with ids of its own where there are none, the run's with an ending: so a repeat is recognised. */
export function spellStart(type: string, input: Payload, options: StartOptions, ending: string): StartRunRequest {
  const { runTimeout, startDelay, retry, request: change, ...plain } = options;
  const request = create(StartRunRequestSchema, {
    type,
    input,
    ...plain,
    retry: spellRetry(retry),
    runTimeout: durationOf(runTimeout),
    startDelay: durationOf(startDelay),
  });
  change?.(request);
  if (!request.requestId) {
    if (!request.runId && !request.debounce) request.runId = uuid7(ending);
    request.requestId = request.runId || uuid7();
  }
  return request;
}

/** A handle of one run. */
export class Run {
  /** `Client.startRun`, `run` and `runOf` make it. */
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
    return (await this.client.invoke(this.client.runs.getRun, this.name())).run!;
  }

  /** Tells the run something by a name. It is kept until the run's code takes it, and recorded once. */
  async signal(signalName: string, value?: unknown): Promise<void> {
    const payload = this.client.converter.toPayload(value);
    await this.client.signals.submit(create(SignalRunRequestSchema, { runId: this.id, signalName, payload, requestId: uuid7() }));
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
    const { converter, runs, longestWait } = this.client;
    const updateId = options.updateId ?? uuid7();
    const request = { ...this.name(), updateName, updateId, input: converter.toPayload(input), wait: durationOf(longestWait)! };
    const { outcome } = await this.client.invoke(runs.updateRun, request);
    if (outcome.case === "failure" || outcome.case === "rejection") throw new StepError(updateName, outcome.value);
    return converter.fromPayload(outcome.value) as T;
  }

  /** Asks the run to end after its clean-up. False if it had ended. */
  async cancel(reason = ""): Promise<boolean> {
    const request = { ...this.name(), reason, requestId: uuid7() };
    return (await this.client.invoke(this.client.runs.cancelRun, request)).accepted;
  }

  /** Ends the run at once, without clean-up. False if it had ended. */
  async terminate(reason = ""): Promise<boolean> {
    const request = { ...this.name(), reason, requestId: uuid7() };
    return (await this.client.invoke(this.client.runs.terminateRun, request)).accepted;
  }

  private name(): { namespace: string; runId: string } {
    return { namespace: this.client.namespace, runId: this.id };
  }
}
