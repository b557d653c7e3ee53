/** What a run's code tells those who ask: by functions while it is in memory, by published values when it is not. */

import { create } from "@bufbuild/protobuf";

import { failureOf } from "./errors.js";
import type { Execution } from "./execution.js";
import { FailureSchema, type Payload } from "./gen/stepwell/v1/types_pb.js";
import { type Query, type QueryAnswer, QueryAnswerSchema } from "./gen/stepwell/v1/workers_pb.js";

const MOST_NAMES = 16;
const MOST_BYTES = 64 * 1024;

/** What one run tells those who ask. */
export class Queries {
  private readonly functions = new Map<string, (input: any) => unknown>();
  private readonly values = new Map<string, Payload>();
  private changed: Record<string, Payload> = {};
  private waiting: Query[] = [];

  constructor(private readonly run: Execution) {}

  register(name: string, answer: (input: any) => unknown): void {
    this.functions.set(name, answer);
  }

  publish(name: string, value: unknown): void {
    const payload = this.run.converter.toPayload(value);
    const size = payload.body.case === undefined ? 0 : Buffer.byteLength(payload.body.value as string | Uint8Array);
    if (size > MOST_BYTES) throw new RangeError(`${name}: a published value has at most ${MOST_BYTES} bytes, not ${size}`);
    if (!this.values.has(name) && this.values.size >= MOST_NAMES) {
      throw new RangeError(`${name}: a run publishes under at most ${MOST_NAMES} names`);
    }
    this.values.set(name, payload);
    this.changed[name] = payload;
    this.run.poke();
  }

  get hasNews(): boolean {
    return Object.keys(this.changed).length > 0;
  }

  take(): Record<string, Payload> {
    const taken = this.changed;
    this.changed = {};
    return taken;
  }

  /** Answers a query, or keeps it until the code is as far as its record. */
  ask(query: Query): void {
    if (this.run.caughtUp) this.run.answer(query, this.answer(query));
    else this.waiting.push(query);
  }

  ready(): void {
    for (const query of this.waiting.splice(0)) this.ask(query);
  }

  private answer(query: Query): QueryAnswer["outcome"] {
    const answer = this.functions.get(query.name);
    const value = this.values.get(query.name);
    if (!answer && value) return { case: "result", value };
    if (!answer) {
      const known = [...new Set([...this.functions.keys(), ...this.values.keys()])].sort().join(", ") || "none";
      const message = `the code has no query ${query.name}; it has ${known}`;
      return { case: "failure", value: create(FailureSchema, { message, type: "UnknownQuery" }) };
    }
    const { converter } = this.run;
    try {
      return { case: "result", value: converter.toPayload(answer(converter.fromPayload(query.input))) };
    } catch (error) {
      return { case: "failure", value: failureOf(error, converter) };
    }
  }
}

/** Spells what is said to a query. */
export function spellAnswer(query: Query, outcome: QueryAnswer["outcome"]): QueryAnswer {
  return create(QueryAnswerSchema, { correlation: query.correlation, ...(query.ref && { ref: query.ref }), outcome });
}
