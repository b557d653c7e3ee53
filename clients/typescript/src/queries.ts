/** What a run's code tells those who ask: by functions while it is in memory, by published values when it is not. */

import { create } from "@bufbuild/protobuf";

import { ApplicationError } from "./errors.js";
import { failureOf } from "./failures.js";
import type { Execution } from "./execution.js";
import type { Payload } from "./gen/stepwell/v1/types_pb.js";
import { type Query, type QueryAnswer, QueryAnswerSchema } from "./gen/stepwell/v1/workers_pb.js";
import type { Outbox } from "./outbox.js";
import type { Outgoing } from "./outgoing.js";

/** What one run tells those who ask. */
export class Queries {
  readonly functions = new Map<string, (input: any) => unknown>();
  private readonly values = new Map<string, Payload>();
  private readonly waiting: Query[] = [];
  private isReady = false;

  constructor(
    private readonly run: Execution,
    private readonly out: Outgoing,
    private readonly outbox: Outbox,
  ) {}

  publish(name: string, value: unknown): void {
    const payload = this.run.converter.toPayload(value);
    this.out.published[name] = payload;
    this.values.set(name, payload);
    this.run.poke();
  }

  /** Answers a query, or keeps it until the code is as far as its record. */
  ask(query: Query): void {
    if (!this.isReady) return void this.waiting.push(query);
    try {
      this.say(query, { case: "result", value: this.answer(query) });
    } catch (error) {
      this.say(query, { case: "failure", value: failureOf(error, this.run.converter) });
    }
  }

  /** The code is as far as its record. */
  ready(): void {
    this.isReady = true;
    for (const query of this.waiting.splice(0)) this.ask(query);
  }

  private say({ correlation, ref }: Query, outcome: QueryAnswer["outcome"]): void {
    this.outbox.answerQuery(create(QueryAnswerSchema, { correlation, ref, outcome }));
  }

  private answer({ name, input }: Query): Payload {
    const { converter } = this.run;
    const answer = this.functions.get(name);
    if (answer) return converter.toPayload(answer(converter.fromPayload(input)));
    const value = this.values.get(name);
    if (value) return value;
    const known = [...new Set([...this.functions.keys(), ...this.values.keys()])].sort().join(", ") || "none";
    throw new ApplicationError(`the code has no query ${name}; it has ${known}`, { type: "UnknownQuery" });
  }
}
