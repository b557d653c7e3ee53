import { createServer, type Http2Server, type ServerHttp2Session } from "node:http2";
import type { TestContext } from "node:test";

import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";

import { connect, stub } from "../src/calls.js";
import { ErrorInfoSchema, RetryInfoSchema } from "../src/gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "../src/gen/google/rpc/status_pb.js";
import {
  type ConnectRequest,
  ConnectRequestSchema,
  type ConnectResponse,
  ConnectResponseSchema,
  type ListTaskStepsRequest,
  type ListTaskStepsResponse,
  type Report,
  ReportResult_Remedy,
  ReportResult_Status,
  WorkerService,
} from "../src/gen/stepwell/v1/workers_pb.js";
import { address, afterwards } from "./kit.js";

/** What comes one by one, for one who takes it. */
class Line<T> {
  private readonly items: T[] = [];
  private over: { error: unknown } | undefined;
  private wake = (): void => {};

  put(item: T): void {
    this.items.push(item);
    this.wake();
  }

  end(error?: unknown): void {
    this.over ??= { error };
    this.wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    for (;;) {
      for (const item of this.items.splice(0)) yield item;
      if (this.over && !this.items.length) break;
      if (!this.items.length) await new Promise<void>((resolve) => (this.wake = resolve));
    }
    if (this.over.error) throw this.over.error;
  }
}

/** Stands between a worker and the service: hears, changes, loses and adds messages. */
export class Tap {
  /** Passes on what it gives for a message of the worker's; nothing loses it. */
  onSaid: (message: ConnectRequest, stream: number) => ConnectRequest | undefined = (message) => message;
  /** The same for the service's. */
  onTold: (message: ConnectResponse, stream: number) => ConnectResponse | undefined = (message) => message;
  /** The same for a page of recorded steps. */
  onPage: (page: ListTaskStepsResponse) => ListTaskStepsResponse = (page) => page;
  readonly said: ConnectRequest[] = [];
  readonly told: ConnectResponse[] = [];
  /** How many streams there were. */
  streams = 0;
  private readonly lines: Line<ConnectResponse>[] = [];
  private readonly sessions = new Set<ServerHttp2Session>();
  private readonly server: Http2Server;

  private constructor() {
    const tap = this;
    this.server = createServer(
      connectNodeAdapter({
        routes: (router) =>
          router.service(WorkerService, {
            connect: (requests, { signal }) => tap.pass(requests, signal),
            listTaskSteps: (request) => tap.page(request),
          }),
      }),
    );
    this.server.on("session", (session) => {
      this.sessions.add(session);
      session.on("close", () => this.sessions.delete(session));
    });
  }

  static async start(t: TestContext): Promise<Tap> {
    const tap = new Tap();
    await new Promise<void>((resolve) => tap.server.listen(0, "127.0.0.1", resolve));
    afterwards(t, () => {
      tap.server.close();
      for (const session of tap.sessions) session.destroy();
    });
    return tap;
  }

  get address(): string {
    const found = this.server.address();
    if (!found || typeof found !== "object") throw new Error("the tap does not listen");
    return `127.0.0.1:${found.port}`;
  }

  /** Tells the worker something on its latest stream. */
  tell(message: MessageInitShape<typeof ConnectResponseSchema>): void {
    this.lines.at(-1)!.put(create(ConnectResponseSchema, message));
  }

  /** Ends the worker's latest stream, as a refusal if there is one. */
  end(error: ConnectError = new ConnectError("the tap is cut", Code.Unavailable)): void {
    this.lines.at(-1)!.end(error);
  }

  /** All reports of the worker. */
  get reports(): Report[] {
    return this.said.flatMap((message) => message.reports);
  }

  private async *pass(requests: AsyncIterable<ConnectRequest>, signal: AbortSignal): AsyncGenerator<ConnectResponse> {
    const stream = this.streams++;
    const line = new Line<ConnectResponse>();
    this.lines.push(line);
    const connection = connect(address(), "", undefined);
    const far = stub(WorkerService, connection).connect(this.hear(requests, stream), { signal });
    void (async () => {
      try {
        for await (const message of far) {
          this.told.push(message);
          const passed = this.onTold(message, stream);
          if (passed) line.put(passed);
        }
        line.end();
      } catch (error) {
        line.end(error);
      }
    })();
    try {
      yield* line;
    } finally {
      connection.close();
    }
  }

  private async page(request: ListTaskStepsRequest): Promise<ListTaskStepsResponse> {
    const connection = connect(address(), "", undefined);
    try {
      return this.onPage(await stub(WorkerService, connection).listTaskSteps(request));
    } finally {
      connection.close();
    }
  }

  private async *hear(requests: AsyncIterable<ConnectRequest>, stream: number): AsyncGenerator<ConnectRequest> {
    try {
      for await (const message of requests) {
        this.said.push(message);
        const passed = this.onSaid(message, stream);
        if (passed) yield passed;
      }
    } catch {
      // The worker is gone; the far side hears so by its signal.
    }
  }

  /** Answers a report in the service's place. */
  refuse({ correlation }: Report, code: Code, reason: string, remedy: ReportResult_Remedy): void {
    const info = anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { reason, domain: "stepwell" }));
    const error = create(StatusSchema, { code, message: "as the test has it", details: [info] });
    const repeatDelay = remedy === ReportResult_Remedy.REPEAT ? { nanos: 1_000_000 } : undefined;
    this.tell({ results: [{ correlation, status: ReportResult_Status.REFUSED, error, remedy, repeatDelay }] });
  }

  /** Passes a message on without some of its reports. */
  static without(message: ConnectRequest, left: (report: Report) => boolean): ConnectRequest {
    return create(ConnectRequestSchema, { ...message, reports: message.reports.filter((report) => !left(report)) });
  }
}

/** A refusal of the stream as a whole, with advice when to come again. */
export function refusal(code: Code, reason: string, seconds?: bigint): ConnectError {
  const details = [{ desc: ErrorInfoSchema, value: { reason, domain: "stepwell" } }] as const;
  const retry = seconds === undefined ? [] : [{ desc: RetryInfoSchema, value: { retryDelay: { seconds } } }];
  return new ConnectError("as the test has it", code, undefined, [...details, ...retry]);
}

/** How many bytes a message of the worker's has. */
export function sizeOf(message: ConnectRequest): number {
  return toBinary(ConnectRequestSchema, message).length;
}
