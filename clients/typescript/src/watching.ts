/**
 * Hearing of the ends of runs: one stream serves all waits of a client.
 *
 * A wait is registered first; then, unless the stream was live before the thing was started, that is read once. So an end
 * is seen in one way or the other: it comes after the watch began, or the reading finds it.
 */

import { setMaxListeners } from "node:events";

import { Code } from "@connectrpc/connect";

import { backoff } from "./calls.js";
import type { Client } from "./client.js";
import { ClientClosed, fromRpc, RunError, type ServiceError } from "./errors.js";
import { type Run as RunMessage } from "./gen/stepwell/v1/runs_pb.js";
import { type Failure, type Payload, RunPhase } from "./gen/stepwell/v1/types_pb.js";
import { aborted, delay, durationOf } from "./times.js";

const PATIENCE = 5000;
const WAIT = 15_000;

/** How a run ended. */
export interface Ended {
  id: string;
  next: string;
  phase: RunPhase;
  purged: boolean;
  result: Payload | undefined;
  failure: Failure | undefined;
}

/** One run's end, for all who wait for it. */
export class Awaited {
  isCovered = false;
  waiting = 0;
  end: Ended | undefined;
  readonly ended: Promise<Ended>;
  finish!: (end: Ended) => void;

  constructor(readonly id: string) {
    this.ended = new Promise((resolve) => {
      this.finish = (end) => {
        this.end = end;
        resolve(end);
      };
    });
  }
}

/** Follows the ends of runs for all who wait. */
export class Watcher {
  private readonly waits = new Map<string, Awaited>();
  private follows = false;
  private hasStream = true;
  private isLive = false;
  private live = signal();
  private broken = signal();
  private cursor = "";
  private readonly closing = new AbortController();

  constructor(private readonly client: Client) {
    // As many as wait.
    setMaxListeners(0, this.closing.signal);
  }

  /** Registers what is about to be started, if the stream is live already. */
  expect(id: string): Awaited | undefined {
    if (!this.isLive) return undefined;
    const found = this.register(id);
    found.isCovered = true;
    return found;
  }

  /** Takes back what was expected. */
  forget(expected: Awaited | undefined): void {
    if (expected && !expected.waiting && this.waits.get(expected.id) === expected) this.waits.delete(expected.id);
  }

  close(): void {
    this.closing.abort();
  }

  private register(id: string): Awaited {
    let found = this.waits.get(id);
    if (!found) this.waits.set(id, (found = new Awaited(id)));
    return found;
  }

  /** Gives the end of what finally goes on in the place of a run. */
  async wait(id: string, expected: Awaited | undefined, stop?: AbortSignal): Promise<Ended> {
    let end = await this.waitOne(id, expected, stop);
    while (end.next) end = await this.waitOne(end.next, undefined, stop);
    return end;
  }

  private async waitOne(id: string, expected: Awaited | undefined, stop?: AbortSignal): Promise<Ended> {
    if (expected?.end) return expected.end;
    const found = this.register(id);
    found.waiting++;
    if (!this.follows) {
      this.follows = true;
      void this.follow();
    }
    const stopped = stop ? aborted(stop) : undefined;
    const closing = aborted(this.closing.signal);
    try {
      for (;;) {
        if (found.end) return found.end;
        stop?.throwIfAborted();
        if (this.closing.signal.aborted) throw new ClientClosed();
        if (!this.hasStream) {
          const end = await this.ask(id, stop);
          if (end) return end;
          continue;
        }
        const broken = this.broken.promise;
        if (!found.isCovered) {
          await Promise.race([this.live.promise, found.ended, delay(PATIENCE, stop), closing.promise]);
          const wasLive = this.isLive;
          const end = await this.look(id, stop);
          if (end) return end;
          found.isCovered = wasLive && this.isLive && broken === this.broken.promise;
          if (!found.isCovered) continue;
        }
        await Promise.race([found.ended, broken, closing.promise, ...(stopped ? [stopped.promise] : [])]);
      }
    } finally {
      stopped?.forget();
      closing.forget();
      found.waiting--;
      if (!found.waiting && this.waits.get(id) === found) this.waits.delete(id);
    }
  }

  private async look(runId: string, stop?: AbortSignal): Promise<Ended | undefined> {
    const { client } = this;
    const { run } = await client.invoke(client.runs.getRun, { namespace: client.namespace, runId }, stop);
    return endOf(run!);
  }

  /** Waits a while by a call, where there is no stream. */
  private async ask(runId: string, stop?: AbortSignal): Promise<Ended | undefined> {
    const { client } = this;
    const request = { namespace: client.namespace, runId, wait: durationOf(WAIT)! };
    const answer = await client.invoke(client.runs.waitRun, request, stop);
    return answer.ended ? endOf(answer.run!) : undefined;
  }

  private async follow(): Promise<void> {
    const { signal: stop } = this.closing;
    for (let attempt = 0; !stop.aborted; attempt++) {
      let error: ServiceError | undefined;
      try {
        const request = { namespace: this.client.namespace, cursor: this.cursor };
        for await (const { ends, cursor } of this.client.runs.watchRuns(request, { signal: stop })) {
          attempt = 0;
          for (const end of ends) await this.take(end);
          if (cursor) this.cursor = cursor;
          if (!this.isLive) {
            this.isLive = true;
            this.live.give();
          }
        }
      } catch (raised) {
        error = fromRpc(raised);
      }
      if (stop.aborted) return;
      if (error && [Code.Unimplemented, Code.PermissionDenied, Code.Unauthenticated].includes(error.code)) {
        // Each wait is a call of its own then, and hears why itself.
        this.hasStream = false;
        this.breakUp();
        return;
      }
      // The cursor may be at fault: begin from now, and read what is waited for.
      if (error && ![Code.Unavailable, Code.Canceled, Code.DeadlineExceeded].includes(error.code)) this.cursor = "";
      if (!this.cursor) this.breakUp();
      await delay(backoff(attempt, error), stop);
    }
  }

  private async take(told: {
    runId: string;
    continuedRunId: string;
    phase: RunPhase;
    purged: boolean;
    resultOmitted: boolean;
    result?: Payload;
    failure?: Failure;
  }): Promise<void> {
    const found = this.waits.get(told.runId);
    if (!found) return;
    const { runId: id, continuedRunId: next, phase, purged, result, failure } = told;
    const end = told.resultOmitted ? await this.look(id) : { id, next, phase, purged, result, failure };
    if (!end) return;
    this.waits.delete(id);
    found.finish(end);
  }

  /** Has all waits look for themselves again. */
  private breakUp(): void {
    if (this.isLive) {
      this.isLive = false;
      this.live = signal();
    }
    for (const [id, found] of this.waits) {
      found.isCovered = false;
      if (!found.waiting) this.waits.delete(id);
    }
    this.broken.give();
    this.broken = signal();
  }
}

function endOf(run: RunMessage): Ended | undefined {
  if (run.phase < RunPhase.COMPLETED) return undefined;
  const { runId: id, continuedRunId: next, phase, purged, result, failure } = run;
  return { id, next, phase, purged, result, failure };
}

/** What a run returned, or why there is nothing. */
export function resultOf(end: Ended): Payload | undefined {
  if (end.purged) throw new RunError(end.id, "PURGED");
  if (end.phase !== RunPhase.COMPLETED) throw new RunError(end.id, RunPhase[end.phase]!, end.failure);
  return end.result;
}

function signal(): { promise: Promise<void>; give: () => void } {
  let give!: () => void;
  return { promise: new Promise<void>((resolve) => (give = resolve)), give };
}
