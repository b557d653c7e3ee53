/** What a worker has to say on its stream: gathered here, taken by the stream's one writer in bundles. */

import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";

import {
  type ConnectRequest,
  ConnectRequestSchema,
  type QueryAnswer,
  type Report,
  ReportSchema,
  type ReportResult,
  type TaskHeartbeat,
  type TaskRef,
} from "./gen/stepwell/v1/workers_pb.js";

const MOST_BYTES = 1_000_000;

/** Whoever reports, and hears the answer. */
export type Answered = (result: ReportResult) => void;

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
  private reports: Report[] = [];
  private heartbeats = new Map<string, TaskHeartbeat>();
  private answers: QueryAnswer[] = [];
  private unanswered = new Map<bigint, [Report, Answered]>();
  private correlation = 0n;
  private wakers: (() => void)[] = [];
  private idlers: (() => void)[] = [];

  acknowledge(ref: TaskRef): void {
    this.acks.set(ref.taskId, ref);
    this.wake();
  }

  report(ref: TaskRef, outcome: MessageInitShape<typeof ReportSchema>["outcome"], answered: Answered): void {
    const correlation = ++this.correlation;
    const report = create(ReportSchema, { correlation, ref, ...(outcome && { outcome }) });
    this.unanswered.set(correlation, [report, answered]);
    this.reports.push(report);
    this.acks.delete(ref.taskId);
    this.wake();
  }

  /** Only the last heartbeat of one activity goes into a message. */
  heartbeat(beat: TaskHeartbeat): void {
    this.heartbeats.set(beat.ref!.taskId, beat);
    this.wake();
  }

  /** An answer that is lost with its stream is asked for again. */
  answerQuery(answer: QueryAnswer): void {
    this.answers.push(answer);
    this.wake();
  }

  /** Hands an answer to whoever reported. */
  answer(result: ReportResult): void {
    const found = this.unanswered.get(result.correlation);
    this.unanswered.delete(result.correlation);
    found?.[1](result);
    if (!this.unanswered.size) for (const idler of this.idlers.splice(0)) idler();
  }

  /** Waits until no report is without an answer. */
  async allAnswered(): Promise<void> {
    while (this.unanswered.size) await new Promise<void>((resolve) => this.idlers.push(resolve));
  }

  /** Queues all unanswered reports again, in their order: a new stream carries the same session. */
  resume(): void {
    this.reports = [...this.unanswered.values()].map(([report]) => report);
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
    for (const idler of this.idlers.splice(0)) idler();
  }

  /** The ids of the tasks of unanswered reports. */
  reported(): Set<string> {
    return new Set([...this.unanswered.values()].map(([report]) => report.ref!.taskId));
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
    let left = this.maxItems;
    message.heartbeats = taken(this.heartbeats, left);
    left -= message.heartbeats.length;
    let size = 0;
    while (this.reports.length && left) {
      size += toBinary(ReportSchema, this.reports[0]!).length;
      if (message.reports.length && size > MOST_BYTES) break;
      message.reports.push(this.reports.shift()!);
      left--;
    }
    message.acks = taken(this.acks, left);
    message.answers = this.answers.splice(0, this.maxItems);
    return message;
  }
}

function taken<T>(items: Map<string, T>, most: number): T[] {
  const found: T[] = [];
  for (const [key, item] of items) {
    if (found.length >= most) break;
    found.push(item);
    items.delete(key);
  }
  return found;
}
