/** A worker's session: one stream after another, each resuming what the last one held. */

import { create } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";

import { type Connection, stub } from "./calls.js";
import { ServiceError } from "./errors.js";
import { fromRpc } from "./failures.js";
import {
  type ConnectRequest,
  ConnectRequestSchema,
  type Hello,
  type Welcome,
  WorkerService,
} from "./gen/stepwell/v1/workers_pb.js";
import type { Log } from "./held.js";
import type { Outbox } from "./outbox.js";
import type { Tasks } from "./tasks.js";
import { delay, gate, jitter, milliseconds, type Milliseconds } from "./times.js";

const TICK = 200;
const WELCOME_TIMEOUT = 10_000;
const SILENCE = 30_000;
const LAST_WORDS = 2000;
const BACKOFF_FIRST = 200;
const BACKOFF_MOST = 30_000;
/** A session that is still held is sought several times before it ends. */
const TRIES_A_SESSION = 4;
const SESSION_OVER = ["SESSION_EXPIRED", "SESSION_NOT_FOUND"];
const FATAL = [Code.InvalidArgument, Code.PermissionDenied, Code.Unauthenticated, Code.Unimplemented];
/** The reason to end a stream that is followed by another at once. */
const MOVED = new Error("the stream is to be moved");

/** What the session tells the worker behind it. */
export type Listener = Pick<Tasks, "held" | "received" | "resumed" | "sessionLost">;

/** Keeps a worker connected. */
export class Session {
  /** Opened once the service has first said welcome. */
  readonly connected = gate();
  private stream = new AbortController();
  private readonly closing = new AbortController();
  private isDraining = false;
  private attempts = 0;
  private backoffMost = BACKOFF_MOST;
  private heard = 0;
  private pinged = 0;
  private pingInterval = Infinity;
  private patience = WELCOME_TIMEOUT;

  constructor(
    private readonly connect: () => Connection,
    private readonly hello: Hello,
    private readonly outbox: Outbox,
    private readonly listener: Listener,
    private readonly log: Log,
    private readonly silence: Milliseconds = SILENCE,
  ) {}

  /** Stays connected until `close`. Throws when the service refuses for good. */
  async run(): Promise<void> {
    while (!this.closing.signal.aborted) {
      try {
        await this.follow();
      } catch (error) {
        await this.after(fromRpc(error));
      }
    }
  }

  /** Asks for no more tasks. */
  drain(): void {
    this.isDraining = true;
    this.outbox.say({ drain: true });
  }

  /** Half-closes, so that the service may end the session at once, and leaves for good. */
  close(): void {
    this.closing.abort();
    this.outbox.wake();
    const { stream } = this;
    setTimeout(() => stream.abort(), LAST_WORDS).unref();
  }

  /** Follows one stream, over a connection of its own, until it is left. Throws why it ended before. */
  private async follow(): Promise<void> {
    const connection = this.connect();
    const stream = (this.stream = new AbortController());
    const greeted = gate();
    this.heard = this.pinged = performance.now();
    this.pingInterval = Infinity;
    this.patience = WELCOME_TIMEOUT;
    const ticker = setInterval(() => this.tick(), TICK);
    try {
      const requests = this.requests(stream.signal, greeted.promise);
      for await (const message of stub(WorkerService, connection).connect(requests, { signal: stream.signal })) {
        this.heard = performance.now();
        if (message.welcome) this.welcomed(message.welcome);
        if (message.ping) this.outbox.say({ pong: message.ping });
        if (message.rotate) setTimeout(() => stream.abort(MOVED), jitter(milliseconds(message.rotate.within))).unref();
        this.listener.received(message);
        greeted.open();
      }
      throw new ServiceError(Code.Unavailable, "the service ended the stream");
    } catch (error) {
      const { reason } = stream.signal;
      if (reason !== MOVED && !this.closing.signal.aborted) throw reason ?? error;
    } finally {
      clearInterval(ticker);
      stream.abort();
      greeted.open();
      this.outbox.wake();
      connection.close();
    }
  }

  /** Says hello, and once that is answered what there is to say: what it has not said stays for the stream that follows. */
  private async *requests(stream: AbortSignal, greeted: Promise<void>): AsyncGenerator<ConnectRequest> {
    const { hello } = this;
    hello.held = hello.sessionId ? this.listener.held() : [];
    yield create(ConnectRequestSchema, { hello });
    await greeted;
    while (!stream.aborted) {
      await this.outbox.awake();
      const message = stream.aborted ? undefined : this.outbox.take();
      if (message) yield message;
      if (this.closing.signal.aborted && this.outbox.isEmpty) return;
    }
  }

  /** Does what is due: gives a silent stream up, says something in time, and has heartbeats go out that gathered. */
  private tick(): void {
    const now = performance.now();
    const silence = now - this.heard;
    if (silence > this.patience) {
      this.stream.abort(new ServiceError(Code.Unavailable, `nothing was heard for ${Math.round(silence)} ms`));
    } else if (now - this.pinged >= this.pingInterval) {
      this.pinged = now;
      this.outbox.say({ ping: 1n });
    } else {
      this.outbox.wake();
    }
  }

  private welcomed(welcome: Welcome): void {
    if (welcome.resumed) {
      this.listener.resumed(welcome.held);
      this.outbox.resume();
    } else if (this.hello.sessionId) {
      this.forget();
    }
    this.hello.sessionId = welcome.sessionId;
    this.attempts = 0;
    this.backoffMost = milliseconds(welcome.sessionTtl) / TRIES_A_SESSION || BACKOFF_MOST;
    this.outbox.maxItems = welcome.maxItems || this.outbox.maxItems;
    this.patience = this.silence;
    this.pingInterval = Math.min(milliseconds(welcome.heartbeatInterval) || Infinity, (2 / 3) * this.silence) - 2 * TICK;
    if (this.isDraining) this.drain();
    this.connected.open();
    this.log.info(`connected: session ${welcome.sessionId}${welcome.resumed ? ", resumed" : ""}`);
  }

  private forget(): void {
    this.hello.sessionId = "";
    this.backoffMost = BACKOFF_MOST;
    this.outbox.clear();
    this.listener.sessionLost();
  }

  /** Waits before another attempt: a stream has ended, or could not be opened. Throws when another can't help. */
  private async after(error: ServiceError): Promise<void> {
    if (SESSION_OVER.includes(error.reason) && this.hello.sessionId) {
      this.log.warn("the session is over: what it held is dropped");
      return this.forget();
    }
    if (FATAL.includes(error.code) || error.reason === "NAMESPACE_NOT_FOUND") throw error;
    const longest = Math.min(this.backoffMost, BACKOFF_FIRST * 2 ** Math.min(this.attempts++, 16));
    const pause = (error.retryAfter ?? 0) + jitter(longest);
    this.log.info(`the stream is gone (${error.message}); next attempt in ${Math.round(pause)} ms`);
    await delay(pause, this.closing.signal);
  }
}
