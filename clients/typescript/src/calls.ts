/** Calls to the service: connection, deadlines, and what is tried again. */

import { randomBytes } from "node:crypto";
import type { SecureClientSessionOptions } from "node:http2";

import type { DescService } from "@bufbuild/protobuf";
import { type CallOptions, type Client as Stub, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

import { ClientClosed, ServiceError } from "./errors.js";
import { fromRpc } from "./failures.js";
import { delay, jitter, type Milliseconds } from "./times.js";
import { currentTraceparent } from "./tracing.js";

const MESSAGE_BYTES = 16 * 1024 * 1024;
/** The longest time that one attempt at a call takes. */
const ATTEMPT_TIMEOUT = 20_000;
const BACKOFF_FIRST = 50;
const BACKOFF_MOST = 5_000;

/** How TLS is spoken: `ca`, `cert`, `key` and whatever else Node's own options have. */
export type Tls = SecureClientSessionOptions;

/** A connection of its own; `close` ends it. */
export interface Connection {
  /** For the generated stubs. */
  readonly transport: Transport;
  /** Ends it, and the calls on it. */
  close(): void;
}

/** Opens a connection, when it is first needed. */
export function connect(address: string, apiKey: string, tls: Tls | undefined): Connection {
  const baseUrl = `${tls ? "https" : "http"}://${address}`;
  const options = { pingIntervalMs: 60_000, pingTimeoutMs: 20_000 };
  const sessionManager = new Http2SessionManager(baseUrl, options, tls);
  const transport = createGrpcTransport({
    baseUrl,
    sessionManager,
    readMaxBytes: MESSAGE_BYTES,
    writeMaxBytes: MESSAGE_BYTES,
    interceptors: [introduced(apiKey)],
  });
  return { transport, close: () => sessionManager.abort() };
}

/** Adds the key and the trace to each call. */
function introduced(apiKey: string): Interceptor {
  return (next) => (request) => {
    if (apiKey) request.header.set("authorization", `Bearer ${apiKey}`);
    const traceparent = currentTraceparent();
    if (traceparent && !request.header.has("traceparent")) request.header.set("traceparent", traceparent);
    return next(request);
  };
}

/** A generated stub over a connection. */
export function stub<T extends DescService>(service: T, connection: Connection): Stub<T> {
  return createClient(service, connection.transport);
}

/** The delay before the next attempt, counted from 0: full jitter, on top of the service's advice. */
export function backoff(attempt: number, error: unknown): Milliseconds {
  const advice = error instanceof ServiceError ? (error.retryAfter ?? 0) : 0;
  return advice + jitter(Math.min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** Math.min(attempt, 16)));
}

/** A method of a stub. */
export type Method<Q, A> = (request: Q, options?: CallOptions) => Promise<A>;

/** How calls are made. */
export interface Patience {
  /** For a call with all its repeats. */
  readonly timeout: Milliseconds;
  /** Ends with the client. */
  readonly closing: AbortSignal;
}

/**
 * Calls a method, and again what fails in passing, until its time is over. What it makes is safe to repeat: it names what
 * it makes, says what shall be, or has a request id.
 */
export async function invoke<Q, A>(method: Method<Q, A>, request: Q, patience: Patience, signal?: AbortSignal): Promise<A> {
  const end = performance.now() + patience.timeout;
  for (let attempt = 0; ; attempt++) {
    try {
      return await once(method, request, { ...patience, timeout: Math.max(1, end - performance.now()) }, { signal });
    } catch (error) {
      const pause = backoff(attempt, error);
      if (!(error instanceof ServiceError) || !error.isPassing || performance.now() + pause >= end) throw error;
      await delay(pause, signal);
      signal?.throwIfAborted();
    }
  }
}

/** Calls a method whose repeat may do something else. */
export async function once<Q, A>(method: Method<Q, A>, request: Q, patience: Patience, options: CallOptions): Promise<A> {
  const { timeout, closing } = patience;
  if (closing.aborted) throw new ClientClosed();
  try {
    // Whole milliseconds: of a fraction gRPC's header says nothing that a server can read.
    return await method(request, { timeoutMs: Math.ceil(Math.min(ATTEMPT_TIMEOUT, timeout)), ...options });
  } catch (error) {
    options.signal?.throwIfAborted();
    // A connection that was closed here leaves its calls cancelled, as a server does that ends.
    throw closing.aborted ? new ClientClosed() : fromRpc(error);
  }
}

let latest = 0n;

/** Makes a UUIDv7, greater than every earlier one of this process, with a given ending. */
export function uuid7(ending = ""): string {
  const now = BigInt(Date.now()) << 12n;
  latest = now > latest ? now : latest + 1n;
  const bits = (latest >> 12n) << 80n | 7n << 76n | (latest & 0xfffn) << 64n | 2n << 62n | randomBytes(8).readBigUInt64BE() >> 2n;
  const text = bits.toString(16).padStart(32, "0").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
  return text.slice(0, text.length - ending.length) + ending;
}
