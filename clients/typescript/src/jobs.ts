/** Jobs as their starter sees them: how one is started, a handle of it, and the ends of all. */

import { create } from "@bufbuild/protobuf";

import { uuid7 } from "./calls.js";
import type { Client } from "./client.js";
import { ClientClosed, RunError } from "./errors.js";
import {
  type Job as JobMessage,
  JobConflictPolicy,
  JobReusePolicy,
  JobState,
  type StartJobRequest,
  StartJobRequestSchema,
  type WatchJobsResponse_End as EndMessage,
} from "./gen/stepwell/v1/jobs_pb.js";
import type { Failure, Payload } from "./gen/stepwell/v1/types_pb.js";
import { type RetryPolicy, spellRetry, spellTimeouts, type Start, type Timeouts } from "./policies.js";
import { durationOf, type Milliseconds } from "./times.js";
import { followed } from "./watching.js";

/** How a job is started. Time spans are in milliseconds. */
export interface JobOptions extends Start, Timeouts {
  /** The caller's name for the job: unique among the namespace's open jobs. */
  uniqueKey?: string;
  /** What may follow a job of the unique key that has ended, as long as that is kept. Default: "ALLOW". */
  reuse?: keyof typeof JobReusePolicy;
  /** What to do when a job of the unique key is open: refuse, or give a handle of that one. Default: "FAIL". */
  conflict?: keyof typeof JobConflictPolicy;
  /** The job's id, a UUID. Default: one made here. */
  jobId?: string;
  /** When to try again. Default: without limit, from 1 s, doubling, up to 100 s. */
  retry?: RetryPolicy;
  /** How long it is kept after its end. Default: as the service is set, 7 days. */
  retention?: Milliseconds;
  /** The caller's id for what belongs together. */
  correlationId?: string;
  /** Whose turn it takes in queues where keys take turns. */
  fairnessKey?: string;
  /** Changes the request itself, for what has no option of its own. */
  request?: (request: StartJobRequest) => void;
}

/** Spells a start, with ids of its own where there are none: so a repeat is recognised. */
export function spellJob(namespace: string, type: string, input: Payload, options: JobOptions): StartJobRequest {
  const { reuse = "ALLOW", conflict = "FAIL", retry, startDelay, retention, request: change, ...plain } = options;
  const request = create(StartJobRequestSchema, {
    namespace,
    type,
    input,
    ...plain,
    ...spellTimeouts(options),
    reusePolicy: JobReusePolicy[reuse],
    conflictPolicy: JobConflictPolicy[conflict],
    retry: spellRetry(retry),
    startDelay: durationOf(startDelay),
    retention: durationOf(retention),
  });
  change?.(request);
  if (!request.requestId) request.requestId = request.jobId ||= uuid7();
  return request;
}

/** A handle of one job: an activity without a run. */
export class Job {
  /** `Client.startJob` and `Client.job` make it. */
  constructor(
    private readonly client: Client,
    /** Its own id, a UUID. */
    readonly id: string,
  ) {}

  /** Waits for the end of the job, and gives what it came to. Throws RunError if it did not end well. */
  async result<T = unknown>(options: { signal?: AbortSignal } = {}): Promise<T> {
    const { client } = this;
    for (;;) {
      const request = { ...this.name(), wait: durationOf(client.longestWait)! };
      const { ended, job } = await client.invoke(client.jobs.waitJob, request, options.signal);
      if (!ended) continue;
      if (job!.state === JobState.COMPLETED) return client.converter.fromPayload(job!.result) as T;
      throw new RunError(this.id, JobState[job!.state]!, job!.failure);
    }
  }

  /** Reads the job as it is. */
  async describe(): Promise<JobMessage> {
    return (await this.client.invoke(this.client.jobs.getJob, this.name())).job!;
  }

  /** Asks the job to stop; a worker that is at it is told. False if it had ended, or had been asked before. */
  async cancel(reason = ""): Promise<boolean> {
    const request = { ...this.name(), reason, requestId: uuid7() };
    return (await this.client.invoke(this.client.jobs.cancelJob, request)).accepted;
  }

  /** Begins the job anew, if it has failed. Throws ServiceError, `JOB_NOT_FAILED`, if it has not. */
  async retry(): Promise<void> {
    await this.client.invoke(this.client.jobs.retryJob, { ...this.name(), requestId: uuid7() });
  }

  private name(): { namespace: string; jobId: string } {
    return { namespace: this.client.namespace, jobId: this.id };
  }
}

/** The end of one job, as `Client.watchJobs` tells it. */
export interface JobEnd {
  /** The job's own id. */
  readonly id: string;
  /** The caller's name for it; empty if there is none. */
  readonly uniqueKey: string;
  /** COMPLETED, FAILED or CANCELLED. */
  readonly ended: string;
  /** What it came to, if it is COMPLETED. */
  readonly result: unknown;
  /** Why it failed, or was stopped. */
  readonly failure: Failure | undefined;
  /** Where to go on after this end, and those that were committed with it. */
  readonly cursor: string;
}

/** Opens a stream of ends, and gives them once it stands. */
export async function watchJobs(
  client: Client,
  closing: AbortSignal,
  cursor = "",
  signal?: AbortSignal,
): Promise<AsyncGenerator<JobEnd, void, void>> {
  const open = (cursor: string) => {
    if (closing.aborted) throw new ClientClosed();
    return client.jobs.watchJobs({ namespace: client.namespace, cursor }, { signal });
  };
  const messages = followed(open, cursor, signal);
  // Its first message says that it stands.
  const first = await messages.next();
  return (async function* () {
    try {
      for (let told = first; !told.done; told = await messages.next()) {
        for (const end of told.value.ends) yield await endOf(client, end, told.value.cursor);
      }
    } finally {
      await messages.return();
    }
  })();
}

async function endOf(client: Client, end: EndMessage, cursor: string): Promise<JobEnd> {
  const { jobId: id, uniqueKey, state, failure } = end;
  const result = end.resultOmitted ? (await client.job(id).describe()).result : end.result;
  return { id, uniqueKey, ended: JobState[state]!, result: client.converter.fromPayload(result), failure, cursor };
}
