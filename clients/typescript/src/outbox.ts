/** What a worker has to say on its stream: gathered here, taken by the stream's one writer in bundles. */

import { setImmediate as turn } from "node:timers/promises";

import { create, type DescMessage, type MessageInitShape, type MessageShape, toBinary } from "@bufbuild/protobuf";

import { MOST_BYTES } from "./bundles.js";
import {
  type ConnectRequest,
  ConnectRequestSchema,
  type QueryAnswer,
  QueryAnswerSchema,
  type Report,
  type ReportResult,
  ReportSchema,
  type TaskHeartbeat,
  TaskHeartbeatSchema,
  type TaskRef,
} from "./gen/stepwell/v1/workers_pb.js";
import { gate } from "./times.js";

/** Of one thing in it: the service refuses messages of more than 4 MiB, and ends the stream. */
const MOST_OF_ONE = 4_000_000;

/** What came of a task, or how far it is. */
export type Outcome = Exclude<Report["outcome"], { case: undefined }>;

interface Sized<T> {
  readonly message: T;
  readonly size: number;
}

interface Unanswered extends Sized<Report> {
  readonly answered: (result: ReportResult) => void;
}

/**
 * Acknowledgements, reports and heartbeats that are not sent yet, and reports that are not answered yet. A report stays
 * until its answer comes: after a reconnect that resumes the session it is sent again. What can't be sent is not taken:
 * whoever says it hears so at once, by an error.
 */
export class Outbox {
  maxItems = 256;
  private head: Pick<MessageInitShape<typeof ConnectRequestSchema>, "ping" | "pong" | "drain"> = {};
  private readonly acks = new Map<string, Sized<TaskRef>>();
  private readonly heartbeats = new Map<string, Sized<TaskHeartbeat>>();
  private reports = new Map<bigint, Unanswered>();
  private readonly answers = new Map<bigint, Sized<QueryAnswer>>();
  private readonly unanswered = new Map<bigint, Unanswered>();
  private correlation = 0n;
  private awaken = gate();

  /** Says what is no item. */
  say(head: typeof this.head): void {
    Object.assign(this.head, head);
    this.wake();
  }

  acknowledge(ref: TaskRef): void {
    this.acks.set(ref.taskId, { message: ref, size: 0 });
    this.wake();
  }

  /** Sends a report, and calls back with the answer. */
  report(ref: TaskRef, outcome: Outcome, answered: (result: ReportResult) => void): void {
    const message = create(ReportSchema, { correlation: ++this.correlation, ref, outcome });
    const report = { ...sized(ReportSchema, message), answered };
    this.unanswered.set(message.correlation, report);
    this.reports.set(message.correlation, report);
    this.wake();
  }

  /** Goes out when the writer is next awake: of each activity only the last one. */
  heartbeat(message: TaskHeartbeat): void {
    this.heartbeats.set(message.ref!.taskId, sized(TaskHeartbeatSchema, message));
  }

  /** An answer that is lost with its stream is asked for again. */
  answerQuery(message: QueryAnswer): void {
    this.answers.set(message.correlation, sized(QueryAnswerSchema, message));
    this.wake();
  }

  /** Hands an answer to whoever reported. */
  answer(result: ReportResult): void {
    const found = this.unanswered.get(result.correlation);
    this.unanswered.delete(result.correlation);
    found?.answered(result);
  }

  /** Sends all unanswered reports again, in their order: a new stream carries the same session. */
  resume(): void {
    this.reports = new Map(this.unanswered);
    this.wake();
  }

  /** Forgets everything: the session is over, and nobody would take the reports. */
  clear(): void {
    for (const each of [this.acks, this.heartbeats, this.reports, this.answers, this.unanswered]) each.clear();
  }

  wake(): void {
    this.awaken.open();
  }

  /** Waits until somebody wakes the writer. */
  async awake(): Promise<void> {
    await this.awaken.promise;
    this.awaken = gate();
    // What this turn of the loop still has to say goes along.
    await turn();
  }

  get isEmpty(): boolean {
    const items = this.acks.size + this.heartbeats.size + this.reports.size + this.answers.size;
    return items + Object.keys(this.head).length === 0;
  }

  /** Takes the next message, if there is something to say. No report goes before what its task told last. */
  take(): ConnectRequest | undefined {
    if (this.isEmpty) return undefined;
    let bytes = 0;
    const some = <T>(from: Map<unknown, Sized<T>>, isReady = (_: T) => true): T[] => {
      const taken: T[] = [];
      for (const [key, { message, size }] of from) {
        if (taken.length >= this.maxItems || (bytes && bytes + size > MOST_BYTES) || !isReady(message)) break;
        from.delete(key);
        taken.push(message);
        bytes += size;
      }
      return taken;
    };
    const message = create(ConnectRequestSchema, {
      ...this.head,
      acks: some(this.acks),
      heartbeats: some(this.heartbeats),
      reports: some(this.reports, ({ ref }) => !this.heartbeats.has(ref!.taskId)),
      answers: some(this.answers),
    });
    this.head = {};
    if (!this.isEmpty) this.wake();
    return message;
  }
}

function sized<T extends DescMessage>(schema: T, message: MessageShape<T>): Sized<MessageShape<T>> {
  const size = toBinary(schema, message).length;
  if (size > MOST_OF_ONE) throw new RangeError(`what is reported has ${size} bytes, and may have ${MOST_OF_ONE}`);
  return { message, size };
}
