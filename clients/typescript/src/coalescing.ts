/**
 * What many callers ask for at once goes out in few calls. Nobody waits for company: what gathers while calls are under
 * way is the next call.
 */

import { backoff } from "./calls.js";
import { ServiceError } from "./errors.js";
import type { Milliseconds } from "./times.js";

const MOST_ITEMS = 128;
const MOST_BYTES = 1_000_000;
const LANES = 3;

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
export class Coalescer<Q, A> {
  private readonly queue: Item<Q, A>[] = [];
  private lanes = 0;

  constructor(
    private readonly send: (requests: Q[], traceparent: string) => Promise<(A | ServiceError)[]>,
    private readonly size: (request: Q) => number,
    private readonly timeout: Milliseconds,
  ) {}

  /** Queues a request. Those of one trace share calls, since a call has one trace context. */
  submit(request: Q, traceparent: string): Promise<A> {
    return new Promise((resolve, reject) => {
      // One that can't be written is this caller's alone.
      const size = this.size(request);
      this.put({ request, size, traceparent, end: performance.now() + this.timeout, attempt: 0, resolve, reject });
    });
  }

  private put(item: Item<Q, A>): void {
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

  private take(): Item<Q, A>[] {
    let count = 0;
    let size = 0;
    for (const item of this.queue.slice(0, MOST_ITEMS)) {
      size += item.size;
      if (count && (size > MOST_BYTES || item.traceparent !== this.queue[0]!.traceparent)) break;
      count++;
    }
    return this.queue.splice(0, count);
  }

  private async sendBatch(items: Item<Q, A>[]): Promise<void> {
    let answers: (A | unknown)[];
    try {
      answers = await this.send(
        items.map((item) => item.request),
        items[0]!.traceparent,
      );
    } catch (error) {
      answers = items.map(() => error);
    }
    items.forEach((item, place) => {
      const answer = answers[place];
      if (!(answer instanceof Error)) item.resolve(answer as A);
      else if (!this.comesAgain(item, answer)) item.reject(answer);
    });
  }

  /** Queues an item again that was refused in passing. */
  private comesAgain(item: Item<Q, A>, error: Error): boolean {
    if (!(error instanceof ServiceError) || !error.isPassing) return false;
    const pause = backoff(item.attempt++, error);
    if (performance.now() + pause >= item.end) return false;
    setTimeout(() => this.put(item), pause);
    return true;
  }
}
