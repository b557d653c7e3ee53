/** What a worker has to say on its stream: gathered here, taken by the stream's one writer in bundles. */

import { create, type DescMessage, type MessageInitShape, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";

import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { FailureSchema } from "./gen/stepwell/v1/types_pb.js";
import {
  type ConnectRequest,
  ConnectRequestSchema,
  type QueryAnswer,
  QueryAnswerSchema,
  type Report,
  ReportResult_Status as Status,
  ReportResultSchema,
  ReportSchema,
  type ReportResult,
  type TaskHeartbeat,
  TaskHeartbeatSchema,
  type TaskRef,
} from "./gen/stepwell/v1/workers_pb.js";

/** Of a bundle. */
const MOST_BYTES = 1_000_000;
/** Of one thing in it: the service refuses messages of more than 4 MiB, and ends the stream. */
const MOST_OF_ONE = 4_000_000;

/** Whoever reports, and hears the answer. */
export type Answered = (result: ReportResult) => void;

interface Sized<T> {
  readonly message: T;
  readonly size: number;
}

interface Unanswered extends Sized<Report> {
  readonly answered: Answered;
}

/**
 * Acknowledgements, reports and heartbeats that are not sent yet, and reports that are not answered yet. A report stays
 * until its answer comes: after a reconnect that resumes the session it is sent again.
 */
export class Outbox {
  ping = 0n;
  pong = 0n;
  drain = false;
  maxItems = 256;
  private acks = new Map<string, TaskRef>();
  private reports: Sized<Report>[] = [];
  private heartbeats = new Map<string, Sized<TaskHeartbeat>>();
  private answers: Sized<QueryAnswer>[] = [];
  private unanswered = new Map<bigint, Unanswered>();
  private correlation = 0n;
  private wakers: (() => void)[] = [];
  private idlers: (() => void)[] = [];

  acknowledge(ref: TaskRef): void {
    this.acks.set(ref.taskId, ref);
    this.wake();
  }

  /** Sends a report. One that can't be sent is refused here, as the service would refuse it. */
  report(ref: TaskRef, outcome: MessageInitShape<typeof ReportSchema>["outcome"], answered: Answered): void {
    const correlation = ++this.correlation;
    const message = create(ReportSchema, { correlation, ref, ...(outcome && { outcome }) });
    const { size, problem } = measured(ReportSchema, message);
    if (problem) {
      setImmediate(() => answered(refusalOf(correlation, problem)));
      return;
    }
    const report = { message, size, answered };
    this.unanswered.set(correlation, report);
    this.reports.push(report);
    this.acks.delete(ref.taskId);
    this.wake();
  }

  /** Only the last heartbeat of one activity goes into a message. */
  heartbeat(message: TaskHeartbeat): void {
    this.heartbeats.set(message.ref!.taskId, { message, size: toBinary(TaskHeartbeatSchema, message).length });
    this.wake();
  }

  /** An answer that is lost with its stream is asked for again. */
  answerQuery(answer: QueryAnswer): void {
    const { size, problem } = measured(QueryAnswerSchema, answer);
    if (problem) {
      const failure = create(FailureSchema, { message: problem, type: "INVALID_FIELD" });
      return this.answerQuery(create(QueryAnswerSchema, { ...answer, outcome: { case: "failure", value: failure } }));
    }
    this.answers.push({ message: answer, size });
    this.wake();
  }

  /** Hands an answer to whoever reported. */
  answer(result: ReportResult): void {
    const found = this.unanswered.get(result.correlation);
    this.unanswered.delete(result.correlation);
    found?.answered(result);
    if (!this.unanswered.size) for (const idler of this.idlers.splice(0)) idler();
  }

  /** Waits until no report is without an answer. */
  async allAnswered(): Promise<void> {
    while (this.unanswered.size) await new Promise<void>((resolve) => this.idlers.push(resolve));
  }

  /** Queues all unanswered reports again, in their order: a new stream carries the same session. */
  resume(): void {
    this.reports = [...this.unanswered.values()];
    this.acks.clear();
    this.answers = [];
    this.ping = this.pong = 0n;
    this.wake();
  }

  /** Forgets everything: the session is over, and nobody would take the reports. */
  clear(): void {
    this.reports = [];
    this.acks.clear();
    this.heartbeats.clear();
    this.answers = [];
    this.unanswered.clear();
    this.ping = this.pong = 0n;
    for (const idler of this.idlers.splice(0)) idler();
  }

  /** The ids of the tasks of unanswered reports. */
  reported(): Set<string> {
    return new Set([...this.unanswered.values()].map(({ message }) => message.ref!.taskId));
  }

  wake(): void {
    for (const waker of this.wakers.splice(0)) waker();
  }

  /** Waits until there is something to send, or somebody wakes it. */
  async filled(): Promise<void> {
    if (!this.hasSomething()) await new Promise<void>((resolve) => this.wakers.push(resolve));
    // What this turn of the loop still has to say goes along.
    await new Promise<void>((resolve) => setImmediate(resolve));
  }

  private hasSomething(): boolean {
    const items = this.acks.size + this.reports.length + this.heartbeats.size + this.answers.length;
    return items > 0 || this.ping !== 0n || this.pong !== 0n || this.drain;
  }

  /** Takes the next message, if there is something to say. Heartbeats go first: none is later than its task's end. */
  take(): ConnectRequest | undefined {
    if (!this.hasSomething()) return undefined;
    const message = create(ConnectRequestSchema, { ping: this.ping, pong: this.pong, drain: this.drain });
    this.ping = this.pong = 0n;
    this.drain = false;
    let size = 0;
    const fits = (count: number, next: Sized<unknown>): boolean => {
      if (count >= this.maxItems || (size > 0 && size + next.size > MOST_BYTES)) return false;
      size += next.size;
      return true;
    };
    for (const [taskId, beat] of this.heartbeats) {
      if (!fits(message.heartbeats.length, beat)) break;
      this.heartbeats.delete(taskId);
      message.heartbeats.push(beat.message);
    }
    const taken = this.reports.findIndex((report, place) => this.heartbeats.has(report.message.ref!.taskId) || !fits(place, report));
    message.reports = this.reports.splice(0, taken < 0 ? this.reports.length : taken).map((report) => report.message);
    for (const [taskId, ref] of this.acks) {
      if (message.acks.length >= this.maxItems) break;
      this.acks.delete(taskId);
      message.acks.push(ref);
    }
    while (this.answers.length && fits(message.answers.length, this.answers[0]!)) {
      message.answers.push(this.answers.shift()!.message);
    }
    return message;
  }
}

/** How large a message is, and why it can't be sent at all, if it can't. */
function measured<T extends DescMessage>(schema: T, message: MessageShape<T>): { size: number; problem?: string } {
  try {
    const size = toBinary(schema, message).length;
    return size > MOST_OF_ONE ? { size, problem: `has ${size} bytes, and may have ${MOST_OF_ONE}` } : { size };
  } catch (error) {
    return { size: 0, problem: `can't be written: ${error instanceof Error ? error.message : error}` };
  }
}

function refusalOf(correlation: bigint, problem: string): ReportResult {
  const info = anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { reason: "INVALID_FIELD", domain: "stepwell" }));
  const error = { code: Code.InvalidArgument, message: `the report ${problem}`, details: [info] };
  return create(ReportResultSchema, { correlation, status: Status.REFUSED, error });
}
