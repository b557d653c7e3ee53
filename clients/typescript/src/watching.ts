/**
 * Hearing of the ends of runs: one stream serves all waits for what a client has started.
 *
 * The ids that a client makes end alike, and the stream tells of no others. What was started by somebody else, or before
 * the stream was live, is waited for by calls.
 */

import { backoff, uuid7 } from "./calls.js";
import type { Client } from "./client.js";
import { ClientClosed, RunError, type ServiceError } from "./errors.js";
import { fromRpc } from "./failures.js";
import type { Run as RunMessage, WatchRunsResponse_End as EndMessage } from "./gen/stepwell/v1/runs_pb.js";
import { type Payload, RunPhase } from "./gen/stepwell/v1/types_pb.js";
import { aborted, delay, durationOf, gate } from "./times.js";

const PATIENCE = 5000;
/** They leave ids as good as random, and yet two clients seldom hear of each other's. */
const ENDING_DIGITS = 4;

/** How a run ended. */
type Ended = Pick<RunMessage, "runId" | "phase" | "purged" | "result" | "failure">;

/** One run's end to come: undefined if the service is to be asked, an error if the client was closed. */
export class Awaited {
  readonly end = gate<EndMessage | Error | undefined>();

  constructor(readonly id: string) {}
}

/** Follows the ends of a client's runs for all who wait. */
export class Watcher {
  /** How the ids end that the client makes. */
  readonly ending = uuid7().slice(-ENDING_DIGITS);
  private readonly waits = new Map<string, Awaited>();
  private readonly closing = new AbortController();
  private following: Promise<void> | undefined;
  private isLive = false;

  constructor(private readonly client: Client) {}

  /** Registers what is about to be started, if the stream is live already and will tell of it. */
  expect(id: string): Awaited | undefined {
    if (!this.isLive || !id.endsWith(this.ending)) return undefined;
    const expected = new Awaited(id);
    this.waits.set(id, expected);
    return expected;
  }

  /** Takes back what was expected. */
  forget(expected: Awaited): void {
    this.waits.delete(expected.id);
  }

  close(): void {
    this.closing.abort();
    this.breakUp(new ClientClosed());
  }

  /** Gives the end of what finally goes on in the place of a run. */
  async wait(id: string, expected?: Awaited, signal?: AbortSignal): Promise<Ended> {
    this.following ??= this.follow();
    const stop = aborted(signal);
    try {
      const end = expected && (await Promise.race([expected.end.promise, stop.promise]));
      if (end instanceof Error) throw end;
      if (end?.phase === RunPhase.COMPLETED && !end.continuedRunId && !end.resultOmitted) return end;
      // It goes on as another one, was too large to be told along, or may have been begun anew since.
      return await this.ask(id, signal);
    } finally {
      stop.forget();
    }
  }

  private async ask(runId: string, signal?: AbortSignal): Promise<Ended> {
    const { client } = this;
    for (;;) {
      const request = { namespace: client.namespace, runId, wait: durationOf(client.longestWait)! };
      const { ended, run } = await client.invoke(client.runs.waitRun, request, signal);
      if (ended) return run!;
    }
  }

  private async follow(): Promise<void> {
    const { namespace, runs } = this.client;
    const { signal } = this.closing;
    const open = (cursor: string) => runs.watchRuns({ namespace, cursor, idSuffix: this.ending }, { signal });
    while (!signal.aborted) {
      try {
        for await (const { ends } of followed(open, "", signal)) {
          for (const end of ends) this.take(end);
          this.isLive = true;
        }
      } catch {
        // The cursor may be at fault: begin from now, and ask for what is waited for.
        this.breakUp();
        await delay(PATIENCE, signal);
      }
    }
  }

  private take(told: EndMessage): void {
    this.waits.get(told.runId)?.end.open(told);
    this.waits.delete(told.runId);
  }

  /** Has all who wait ask, or fail. */
  private breakUp(error?: Error): void {
    this.isLive = false;
    for (const found of this.waits.values()) found.end.open(error);
    this.waits.clear();
  }
}

/** What a stream tells, and the streams that go on from its cursor when it breaks. Throws what will not pass. */
export async function* followed<M extends { cursor: string }>(
  open: (cursor: string) => AsyncIterable<M>,
  cursor: string,
  stop: AbortSignal | undefined,
): AsyncGenerator<M, void, void> {
  for (let attempt = 0; !stop?.aborted; attempt++) {
    let error: ServiceError | undefined;
    try {
      for await (const message of open(cursor)) {
        attempt = 0;
        yield message;
        cursor = message.cursor || cursor;
      }
    } catch (raised) {
      error = fromRpc(raised);
    }
    if (stop?.aborted) return;
    if (error && !error.isPassing) throw error;
    await delay(backoff(attempt, error), stop);
  }
}

/** What a run returned, or why there is nothing. */
export function resultOf(end: Ended): Payload | undefined {
  if (end.purged) throw new RunError(end.runId, "PURGED");
  if (end.phase !== RunPhase.COMPLETED) throw new RunError(end.runId, RunPhase[end.phase]!, end.failure);
  return end.result;
}
