/**
 * A worker's session: one stream after another, each resuming what the last one held.
 *
 * A stream that broke is followed by another after a while. One that the service asks to be moved stands, and works on,
 * until the new one is welcome: in between nothing stops.
 */

import { clone } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";

import type { Connection } from "./calls.js";
import type { ServiceError } from "./errors.js";
import { type ConnectResponse, type Hello, HelloSchema, type TaskRef, type Welcome } from "./gen/stepwell/v1/workers_pb.js";
import type { Outbox } from "./outbox.js";
import type { Log } from "./roster.js";
import { Stream } from "./stream.js";
import { aborted, delay, jitter, milliseconds, type Milliseconds } from "./times.js";

const BACKOFF_FIRST = 200;
const BACKOFF_MOST = 30_000;
/** A session that is still held is sought several times before it ends. */
const TRIES_A_SESSION = 4;
const HEARTBEAT = 10_000;
const SESSION_OVER = ["SESSION_EXPIRED", "SESSION_NOT_FOUND"];
const FATAL = [Code.InvalidArgument, Code.PermissionDenied, Code.Unauthenticated, Code.Unimplemented];

/** The worker behind the stream. */
export interface Listener {
  /** All tasks that it has. */
  held(): TaskRef[];
  /** Takes in a message. */
  received(message: ConnectResponse): void;
  /** Drops tasks that are not held any more, except those with an unanswered report. */
  resumed(held: readonly TaskRef[]): void;
  /** Drops all tasks: the session is over, and its leases with it. */
  sessionLost(): void;
}

/** Keeps a worker connected. */
export class Session {
  private stream: Stream | undefined;
  private attempts = 0;
  private backoffMost: Milliseconds = BACKOFF_MOST;
  private isDraining = false;
  private isClosing = false;
  private moveTimer: NodeJS.Timeout | undefined;
  private leaving = new AbortController();

  constructor(
    private readonly connect: () => Connection,
    private readonly hello: Hello,
    private readonly outbox: Outbox,
    private readonly listener: Listener,
    private readonly log: Log,
  ) {}

  /** Stays connected until `close`. Throws when the service refuses for good. */
  async run(): Promise<void> {
    try {
      while (!this.isClosing) {
        try {
          if (!this.stream || this.leaving.signal.aborted) await this.openNext();
          await this.follow();
        } catch (error) {
          await this.after(error as ServiceError);
        }
      }
    } finally {
      clearTimeout(this.moveTimer);
      this.closeStream();
    }
  }

  /** Asks for no more tasks. */
  drain(): void {
    this.isDraining = true;
    this.outbox.drain = true;
    this.outbox.wake();
  }

  /** Leaves the stream for good. */
  close(): void {
    this.isClosing = true;
    this.leaving.abort();
  }

  /** Moves to another stream, at a random moment of the time given. */
  rotate(within: Milliseconds): void {
    this.leaveIn(jitter(within));
  }

  private leaveIn(span: Milliseconds): void {
    this.moveTimer ??= setTimeout(() => this.leaving.abort(), span);
  }

  /** Forgets that the stream was to be left. */
  private stay(): void {
    clearTimeout(this.moveTimer);
    this.moveTimer = undefined;
    if (!this.isClosing && this.leaving.signal.aborted) this.leaving = new AbortController();
  }

  private async openNext(): Promise<void> {
    const hello = clone(HelloSchema, this.hello);
    if (hello.sessionId) hello.held = this.listener.held();
    const fresh = new Stream(this.connect(), this.outbox, (message) => this.listener.received(message));
    let message: ConnectResponse;
    try {
      message = await fresh.greet(hello);
    } catch (error) {
      fresh.close();
      throw error;
    }
    const former = this.stream;
    this.stream = fresh;
    this.attempts = 0;
    former?.hush();
    this.stay();
    this.takeWelcome(message.welcome!);
    this.listener.received(message);
    const { heartbeatInterval } = message.welcome!;
    fresh.start(heartbeatInterval ? milliseconds(heartbeatInterval) : HEARTBEAT);
    former?.close();
  }

  private takeWelcome(welcome: Welcome): void {
    if (this.hello.sessionId && !welcome.resumed) {
      this.forget();
    } else if (welcome.resumed) {
      this.listener.resumed(welcome.held);
      this.outbox.resume();
    }
    this.hello.sessionId = welcome.sessionId;
    if (welcome.sessionTtl) this.backoffMost = milliseconds(welcome.sessionTtl) / TRIES_A_SESSION;
    if (welcome.maxItems) this.outbox.maxItems = welcome.maxItems;
    if (this.isDraining) this.drain();
    this.log.info(`connected: session ${welcome.sessionId}${welcome.resumed ? ", resumed" : ""}`);
  }

  private forget(): void {
    this.hello.sessionId = "";
    this.backoffMost = BACKOFF_MOST;
    this.outbox.clear();
    this.listener.sessionLost();
  }

  /** Follows the stream until it is to be left: for another one, or for good. Throws why it ended before. */
  private async follow(): Promise<void> {
    const { stream } = this;
    if (!stream) return;
    const left = aborted(this.leaving.signal);
    const error = await Promise.race([stream.ended, left.promise]);
    left.forget();
    if (error) {
      this.closeStream();
      throw error;
    }
    if (this.isClosing) await stream.sayGoodbye();
  }

  /** Waits before another attempt: a stream has ended, or could not be opened. Throws when another can't help. */
  private async after(error: ServiceError): Promise<void> {
    if (SESSION_OVER.includes(error.reason) && this.hello.sessionId) {
      this.log.warn("the session is over: what it held is dropped");
      this.closeStream();
      this.forget();
      return;
    }
    if (FATAL.includes(error.code) || error.reason === "NAMESPACE_NOT_FOUND") throw error;
    const longest = Math.min(this.backoffMost, BACKOFF_FIRST * 2 ** Math.min(this.attempts++, 16));
    const pause = (error.retryAfter ?? 0) + jitter(longest);
    if (this.isClosing) return;
    if (this.stream) {
      this.stay();
      this.leaveIn(pause);
      return;
    }
    this.log.info(`the stream is gone (${error.message}); next attempt in ${Math.round(pause)} ms`);
    await delay(pause, this.leaving.signal);
  }

  private closeStream(): void {
    this.stream?.close();
    this.stream = undefined;
  }
}
