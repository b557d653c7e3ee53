/** One stream of a worker's session, over a connection of its own: greeted, then read, written and watched. */

import { create } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";

import type { Connection } from "./calls.js";
import { stub } from "./calls.js";
import { fromRpc, ServiceError } from "./errors.js";
import {
  type ConnectRequest,
  ConnectRequestSchema,
  type ConnectResponse,
  type Hello,
  WorkerService,
} from "./gen/stepwell/v1/workers_pb.js";
import type { Outbox } from "./outbox.js";
import { delay, type Milliseconds } from "./times.js";

const WELCOME_TIMEOUT = 10_000;
const TICK = 1000;
const LAST_WORDS = 2000;

/** After how long without a word a stream is pinged, and given up. */
export interface Silence {
  readonly beforePing: Milliseconds;
  readonly beforeEnd: Milliseconds;
}

const SILENCE: Silence = { beforePing: 20_000, beforeEnd: 30_000 };

/** What it hears goes to `received`, what it says comes from the outbox. */
export class Stream {
  /** Ends with why the stream is of no use any more. */
  readonly ended: Promise<ServiceError>;
  private end!: (error: ServiceError) => void;
  private readonly aborting = new AbortController();
  private responses!: AsyncIterator<ConnectResponse>;
  private isHushed = false;
  private heard = performance.now();
  private said = performance.now();
  private readonly started: Promise<void>;
  private begin!: () => void;
  private pings = 0n;
  private ticker: NodeJS.Timeout | undefined;
  private hasReadAll = false;

  constructor(
    private readonly connection: Connection,
    private readonly outbox: Outbox,
    private readonly received: (message: ConnectResponse) => void,
    private readonly silence = SILENCE,
  ) {
    this.ended = new Promise((resolve) => (this.end = resolve));
    this.started = new Promise((resolve) => (this.begin = resolve));
  }

  /** Says hello, and gives the message with the welcome. */
  async greet(hello: Hello): Promise<ConnectResponse> {
    const calls = stub(WorkerService, this.connection).connect(this.requests(hello), { signal: this.aborting.signal });
    this.responses = calls[Symbol.asyncIterator]();
    const timer = setTimeout(() => this.aborting.abort(), WELCOME_TIMEOUT);
    try {
      const { done, value } = await this.responses.next();
      if (done || !value.welcome) throw new ServiceError(Code.Unavailable, "the service did not say welcome");
      this.heard = this.said = performance.now();
      return value;
    } catch (error) {
      const isLate = this.aborting.signal.aborted;
      throw isLate ? new ServiceError(Code.Unavailable, "the service did not say welcome in time") : fromRpc(error);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Begins to read, to write and to watch: something is said within each interval. */
  start(interval: Milliseconds): void {
    this.begin();
    void this.read();
    const tick = Math.min(TICK, interval / 4);
    let before = performance.now();
    this.ticker = setInterval(() => {
      const now = performance.now();
      // This process itself was held up: what came meanwhile is yet to be read.
      if (now - before > tick + 5000) this.heard = now;
      before = now;
      this.watch(now, interval - tick);
    }, tick);
  }

  private watch(now: number, quiet: Milliseconds): void {
    const silence = now - this.heard;
    if (silence > this.silence.beforeEnd) {
      this.end(new ServiceError(Code.Unavailable, `nothing was heard for ${Math.round(silence / 1000)} s`));
    } else if (silence > this.silence.beforePing || now - this.said >= quiet) {
      this.outbox.ping = ++this.pings;
      this.outbox.wake();
    }
  }

  private async *requests(hello: Hello): AsyncGenerator<ConnectRequest> {
    yield create(ConnectRequestSchema, { hello });
    await this.started;
    while (!this.isHushed) {
      await this.outbox.filled();
      // What a stream has not said stays for the one that follows.
      const message = this.isHushed ? undefined : this.outbox.take();
      if (!message) continue;
      this.said = performance.now();
      yield message;
    }
  }

  private async read(): Promise<void> {
    try {
      for (;;) {
        const { done, value } = await this.responses.next();
        if (done) break;
        this.heard = performance.now();
        if (this.isHushed) continue;
        if (value.ping) {
          this.outbox.pong = value.ping;
          this.outbox.wake();
        }
        this.received(value);
      }
      this.end(new ServiceError(Code.Unavailable, "the service ended the stream"));
    } catch (error) {
      this.end(fromRpc(error));
    } finally {
      this.hasReadAll = true;
    }
  }

  /** Says and hears nothing more. The request side half-closes. */
  hush(): void {
    this.isHushed = true;
    clearInterval(this.ticker);
    this.begin();
    this.outbox.wake();
  }

  /** Half-closes, so that the service may end the session at once. */
  async sayGoodbye(): Promise<void> {
    this.hush();
    if (!this.hasReadAll) await Promise.race([this.ended, delay(LAST_WORDS)]);
  }

  close(): void {
    this.hush();
    this.aborting.abort();
    this.connection.close();
  }
}
