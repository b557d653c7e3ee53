/**
 * What many callers ask for at once goes out in few calls. Nobody waits for company: what gathers while calls are under
 * way is the next call.
 */

import { type DescMessage, type MessageShape, toBinary } from "@bufbuild/protobuf";

import { backoff } from "./calls.js";
import { fromStatus, ServiceError } from "./errors.js";
import type { Status } from "./gen/google/rpc/status_pb.js";
import type { Milliseconds } from "./times.js";
import { currentTraceparent } from "./tracing.js";

const MOST_ITEMS = 128;
const MOST_BYTES = 1_000_000;
const LANES = 3;

/** What is answered to a bundle: to each request what came of it, or why nothing did. */
interface Answers<A> {
  results: { outcome: { case: string; value: A } | { case: "error"; value: Status } | { case: undefined; value?: undefined } }[];
}

interface Item<Q, A> {
  request: Q;
  size: number;
  traceparent: string;
  end: number;
  attempt: number;
  resolve: (answer: A) => void;
  reject: (error: unknown) => void;
}

/** Gathers requests of one method. */
export class Coalescer<D extends DescMessage, A> {
  private readonly queue: Item<MessageShape<D>, A>[] = [];
  private lanes = 0;

  constructor(
    private readonly schema: D,
    private readonly timeout: Milliseconds,
    private readonly send: (requests: MessageShape<D>[], headers: Record<string, string>) => Promise<Answers<A>>,
  ) {}

  /** Queues a request. Those of one trace share calls, since a call has one trace context. */
  submit(request: MessageShape<D>): Promise<A> {
    return new Promise((resolve, reject) => {
      // One that can't be written is this caller's alone.
      const size = toBinary(this.schema, request).length;
      const end = performance.now() + this.timeout;
      this.put({ request, size, traceparent: currentTraceparent(), end, attempt: 0, resolve, reject });
    });
  }

  private put(item: Item<MessageShape<D>, A>): void {
    this.queue.push(item);
    if (this.lanes >= LANES) return;
    this.lanes++;
    // What this turn of the loop still asks for goes along.
    setImmediate(() => void this.drain());
  }

  private async drain(): Promise<void> {
    while (this.queue.length) await this.sendBatch(this.take());
    this.lanes--;
  }

  private take(): Item<MessageShape<D>, A>[] {
    let count = 0;
    let size = 0;
    for (const item of this.queue.slice(0, MOST_ITEMS)) {
      size += item.size;
      if (count && (size > MOST_BYTES || item.traceparent !== this.queue[0]!.traceparent)) break;
      count++;
    }
    return this.queue.splice(0, count);
  }

  private async sendBatch(items: Item<MessageShape<D>, A>[]): Promise<void> {
    const requests = items.map(({ request }) => request);
    const { traceparent } = items[0]!;
    try {
      const { results } = await this.send(requests, traceparent ? { traceparent } : {});
      items.forEach((item, place) => {
        const outcome = results[place]?.outcome;
        if (!outcome?.case || outcome.case === "error") this.failed(item, fromStatus(outcome?.value as Status | undefined));
        else item.resolve(outcome.value as A);
      });
    } catch (error) {
      for (const item of items) this.failed(item, error);
    }
  }

  /** Queues an item again that was refused in passing. */
  private failed(item: Item<MessageShape<D>, A>, error: unknown): void {
    const pause = backoff(item.attempt++, error);
    if (error instanceof ServiceError && error.isPassing && performance.now() + pause < item.end) {
      setTimeout(() => this.put(item), pause);
    } else {
      item.reject(error);
    }
  }
}
