/** The worker that the conformance kit and the torture run: a plain program, told all that it needs by its environment. */

import { appendFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";

import { type ActivityContext, ApplicationError, Client, RunCancelled, Worker, type WorkflowContext } from "../src/index.js";

const SECOND = 1000;

function setting(name: string, otherwise = ""): string {
  return process.env[`STEPWELL_${name}`] || otherwise;
}

const atOnce = (name: string) => Number(setting(name, "10"));
const variant = setting("VARIANT");
const ledger = setting("LEDGER");

interface Failing {
  message: string;
  kind: string;
  non_retryable: boolean;
}

interface Beating {
  seconds: number;
  every: number;
  crash: boolean;
}

interface Effect {
  key: string;
  seconds: number;
}

interface Beaten {
  beat: number;
}

const activities = {
  echo: (value: unknown) => value,

  fail: ({ message, kind, non_retryable: nonRetryable }: Failing) => {
    throw new ApplicationError(message, { type: kind, nonRetryable });
  },

  flaky: ({ failures }: { failures: number }, { attempt }: ActivityContext) => {
    if (attempt <= failures) throw new ApplicationError(`attempt ${attempt} fails`);
    return attempt;
  },

  hold: async ({ seconds }: { seconds: number }, { signal }: ActivityContext) => {
    await pause(seconds * SECOND, undefined, { signal });
    return "held";
  },

  beat: async ({ seconds, every, crash }: Beating, ctx: ActivityContext) => {
    const before = (ctx.heartbeatDetails as Beaten | null)?.beat ?? null;
    const end = Date.now() + seconds * SECOND;
    let beats = 0;
    while (Date.now() < end) {
      ctx.heartbeat({ beat: (before ?? 0) + ++beats });
      if (crash && ctx.attempt === 1 && beats === 3) throw new ApplicationError("it fails after its third beat");
      await pause(every * SECOND, undefined, { signal: ctx.signal });
    }
    return { resumed_from: before, beats };
  },

  effect: async ({ key, seconds }: Effect, { attempt, signal }: ActivityContext) => {
    const line = { key, language: "typescript", pid: process.pid, attempt, time: Date.now() / SECOND };
    if (ledger) appendFileSync(ledger, `${JSON.stringify(line)}\n`);
    await pause(seconds * SECOND, undefined, { signal });
    return key;
  },
};

interface Errand {
  key: string;
  activities: number;
  seconds: number;
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index);

const workflows = {
  steps: async (ctx: WorkflowContext, { count }: { count: number }) => {
    let sum = 0;
    for (const index of upTo(count)) sum += await ctx.step("step", () => index);
    return sum;
  },

  activities: (ctx: WorkflowContext, { count, type, input }: { count: number; type: string; input: unknown }) =>
    ctx.map(upTo(count), (ctx) => ctx.activity(type, input)),

  waiter: (ctx: WorkflowContext) => ctx.waitSignal("go"),

  asked: async (ctx: WorkflowContext) => {
    ctx.handleQuery("state", () => ({ waiting: true }));
    await ctx.waitSignal("go");
    return "done";
  },

  cleaner: async (ctx: WorkflowContext) => {
    try {
      await ctx.waitSignal("never");
    } catch (error) {
      if (error instanceof RunCancelled) await ctx.activity("echo", "cleaned");
      throw error;
    }
  },

  parent: (ctx: WorkflowContext, input: { count: number }) => ctx.child<number>("steps", input),

  sleeper: async (ctx: WorkflowContext, { seconds }: { seconds: number }) => {
    await ctx.sleep(seconds * SECOND);
    return "slept";
  },

  ordered: async (ctx: WorkflowContext) => {
    await ctx.step(variant === "changed" ? "other" : "first", () => 1);
    await ctx.waitSignal("go");
    await ctx.step("second", () => 2);
    return "ordered";
  },

  errand: async (ctx: WorkflowContext, { key, activities, seconds }: Errand) => {
    const begun = await ctx.step("begin", () => key);
    const keys = await ctx.map(upTo(activities), (ctx, index) =>
      ctx.activity<string>("effect", { key: `${begun}/${index}`, seconds }),
    );
    await ctx.sleep(50);
    await ctx.child("steps", { count: 3 });
    return ctx.step("end", () => keys.length);
  },
};

const leaving = new AbortController();
process.once("SIGTERM", () => leaving.abort());

const client = new Client(setting("ADDRESS", "127.0.0.1:7233"), { namespace: setting("NAMESPACE", "main") });
const worker = new Worker(client, {
  taskQueues: [setting("TASK_QUEUE", "conformance")],
  workflows,
  activities,
  maxActivities: atOnce("MAX_ACTIVITIES"),
  maxRuns: atOnce("MAX_RUNS"),
  maxResidentRuns: atOnce("MAX_RESIDENT"),
  log: { info: console.error, warn: console.error, error: console.error },
});
void worker.connected.then(() => console.log("ready"));
await worker.run({ signal: leaving.signal });
client.close();
