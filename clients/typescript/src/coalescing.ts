/**
 * What many callers ask for at once goes out in few calls. Nobody waits for company: what gathers while calls are under
 * way is the next call.
 */

import { type DescMessage, type MessageShape, toBinary } from "@bufbuild/protobuf";

import { takeSome } from "./bundles.js";
import { invoke, type Method, once, type Patience } from "./calls.js";
import { fromStatus } from "./failures.js";
import type { Status } from "./gen/google/rpc/status_pb.js";
import { currentTraceparent } from "./tracing.js";

const MOST_ITEMS = 128;
const LANES = 3;

/** What is answered to a bundle: to each request what came of it, or why nothing did. */
interface Answers<A> {
  results: { outcome: { case: string; value: A } | { case: "error"; value: Status } | { case: undefined; value?: undefined } }[];
}

interface Item<Q, A> {
  request: Q;
  size: number;
  traceparent: string;
  resolve: (answer: A) => void;
  reject: (error: unknown) => void;
}

/** Gathers requests of one kind. */
export class Coalescer<D extends DescMessage, A> {
  private readonly queue: Item<MessageShape<D>, A>[] = [];
  private lanes = 0;

  constructor(
    private readonly schema: D,
    private readonly method: Method<{ namespace: string; requests: MessageShape<D>[] }, Answers<A>>,
    private readonly namespace: string,
    private readonly patience: Patience,
  ) {}

  /** Has a request sent with others, and again if it fails in passing. */
  async submit(request: MessageShape<D>): Promise<A> {
    // One that can't be written is this caller's alone.
    const size = toBinary(this.schema, request).length;
    const traceparent = currentTraceparent();
    const queued = () => new Promise<A>((resolve, reject) => this.put({ request, size, traceparent, resolve, reject }));
    return invoke(queued, request, this.patience);
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

  /** Requests of one trace share calls, since a call has one trace context. */
  private take(): Item<MessageShape<D>, A>[] {
    const { traceparent } = this.queue[0]!;
    return takeSome(this.queue, MOST_ITEMS, (item) => item.traceparent === traceparent);
  }

  private async sendBatch(items: Item<MessageShape<D>, A>[]): Promise<void> {
    const { traceparent } = items[0]!;
    const request = { namespace: this.namespace, requests: items.map((item) => item.request) };
    try {
      const { results } = await once(this.method, request, this.patience, { headers: traceparent ? { traceparent } : {} });
      items.forEach(({ resolve, reject }, place) => {
        const outcome = results[place]?.outcome;
        if (!outcome?.case || outcome.case === "error") reject(fromStatus(outcome?.value as Status | undefined));
        else resolve(outcome.value as A);
      });
    } catch (error) {
      for (const { reject } of items) reject(error);
    }
  }
}
