/**
 * Hearing of the ends of runs: one stream serves all waits of a client.
 *
 * A wait is registered first; then, unless the stream was live before the thing was started, that is read once. So an end
 * is seen in one way or the other: it comes after the watch began, or the reading finds it.
 */

import { setTimeout as pause } from "node:timers/promises";

import { backoff } from "./calls.js";
import type { Client } from "./client.js";
import { ClientClosed, RunError, type ServiceError } from "./errors.js";
import { fromRpc } from "./failures.js";
import type { Run as RunMessage, WatchRunsResponse_End as EndMessage } from "./gen/stepwell/v1/runs_pb.js";
import { type Payload, RunPhase } from "./gen/stepwell/v1/types_pb.js";
import { aborted, delay, gate } from "./times.js";

const PATIENCE = 5000;

/** How a run ended. */
type Ended = Pick<RunMessage, "runId" | "continuedRunId" | "phase" | "purged" | "result" | "failure">;

/** One run's end, for all who wait for it: undefined if it is to be read again, an error if the client was closed. */
export class Awaited {
  users = 1;
  readonly end = gate<Ended | Error | undefined>();

  constructor(readonly id: string) {}
}

/** Follows the ends of runs for all who wait. */
export class Watcher {
  private readonly waits = new Map<string, Awaited>();
  private readonly closing = new AbortController();
  private following: Promise<void> | undefined;
  private isLive = false;
  private live = gate();

  constructor(private readonly client: Client) {}

  /** Registers what is about to be started, if the stream is live already. */
  expect(id: string): Awaited | undefined {
    return this.isLive ? this.register(id) : undefined;
  }

  /** Takes back what was expected. */
  forget(expected: Awaited): void {
    if (!--expected.users && this.waits.get(expected.id) === expected) this.waits.delete(expected.id);
  }

  close(): void {
    this.closing.abort();
    this.live.open();
    this.breakUp(new ClientClosed());
  }

  /** Gives the end of what finally goes on in the place of a run. */
  async wait(id: string, expected?: Awaited, signal?: AbortSignal): Promise<Ended> {
    this.following ??= this.follow();
    const stop = aborted(signal);
    try {
      let end = expected && (await Promise.race([expected.end.promise, stop.promise]));
      while (!end) {
        await Promise.race([this.live.promise, stop.promise, pause(PATIENCE, undefined, { ref: false })]);
        end = await this.seek(id, stop.promise, signal);
      }
      if (end instanceof Error) throw end;
      return end.continuedRunId ? await this.wait(end.continuedRunId, undefined, signal) : end;
    } finally {
      stop.forget();
    }
  }

  /** Reads a run that may have ended, and waits for its end if the stream is live: undefined if it breaks meanwhile. */
  private async seek(id: string, stop: Promise<never>, signal?: AbortSignal): Promise<Ended | Error | undefined> {
    const { isLive } = this;
    const awaited = this.register(id);
    try {
      const end = await this.look(id, signal);
      return end ?? (isLive ? await Promise.race([awaited.end.promise, stop]) : undefined);
    } finally {
      this.forget(awaited);
    }
  }

  private register(id: string): Awaited {
    const known = this.waits.get(id);
    if (known) known.users++;
    const found = known ?? new Awaited(id);
    this.waits.set(id, found);
    return found;
  }

  private async look(runId: string, signal?: AbortSignal): Promise<Ended | undefined> {
    const { run } = await this.client.invoke(this.client.runs.getRun, { namespace: this.client.namespace, runId }, signal);
    return run!.phase < RunPhase.COMPLETED ? undefined : run;
  }

  private async follow(): Promise<void> {
    const { namespace, runs } = this.client;
    const { signal } = this.closing;
    const open = (cursor: string) => runs.watchRuns({ namespace, cursor }, { signal });
    while (!signal.aborted) {
      try {
        for await (const { ends } of followed(open, "", signal)) {
          for (const end of ends) await this.take(end);
          this.isLive = true;
          this.live.open();
        }
      } catch {
        // The cursor may be at fault: begin from now, and read what is waited for.
        this.breakUp();
        await delay(PATIENCE, signal);
      }
    }
  }

  private async take(told: EndMessage): Promise<void> {
    const found = this.waits.get(told.runId);
    const end = found && told.resultOmitted ? await this.look(told.runId) : told;
    this.waits.delete(told.runId);
    found?.end.open(end);
  }

  /** Has all who wait read their runs again, or fail. */
  private breakUp(error?: Error): void {
    if (this.isLive) this.live = gate();
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
