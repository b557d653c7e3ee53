import assert from "node:assert/strict";

import { create } from "@bufbuild/protobuf";

import { type Payload, PayloadSchema } from "../src/gen/stepwell/v1/types_pb.js";
import { type ActivityContext, ApplicationError, type Codec, type RetryPolicy, RunError, ServiceError, Worker, type WorkflowContext } from "../src/index.js";
import { advance } from "../src/testing.js";
import { client, gate, Link, queue, silent, soon, test, withService, work } from "./kit.js";

withService();

test("a job is tried again with its details", async (t) => {
  const c = client(t);
  const resumes = (_: unknown, ctx: ActivityContext) => {
    if (ctx.heartbeatDetails !== null) return ctx.heartbeatDetails;
    ctx.heartbeat(1);
    ctx.heartbeat(7);
    throw new ApplicationError("once more", { retryAfter: 1 });
  };
  await work(t, c, { activities: { resumes } });
  assert.equal(await (await c.startJob("resumes", null, { taskQueue: queue(t) })).result(), 7);
});

test("a final failure of a job", async (t) => {
  const c = client(t);
  const refuses = () => {
    throw new ApplicationError("no", { type: "Never", nonRetryable: true });
  };
  await work(t, c, { activities: { refuses } });
  const job = await c.startJob("refuses", null, { taskQueue: queue(t) });
  await assert.rejects(job.result(), (error) => error instanceof RunError && error.failure?.type === "Never");
});

test("a cancelled job hears of it", async (t) => {
  const c = client(t);
  const begun = gate();
  const waits = (_: unknown, ctx: ActivityContext) => {
    begun.open();
    return new Promise((_, reject) => ctx.signal.addEventListener("abort", () => reject(ctx.signal.reason)));
  };
  await work(t, c, { activities: { waits } });
  const job = await c.startJob("waits", null, { taskQueue: queue(t) });
  await begun.opened;
  await job.cancel("enough");
  await assert.rejects(job.result(), (error) => error instanceof RunError && error.ended === "CANCELLED");
});

test("a stream that is cut is resumed, and nothing done twice", async (t) => {
  const link = await Link.start(t);
  const near = client(t, {}, link.address);
  const c = client(t);
  let begun = 0;
  const held = gate();
  const slow = async (n: number, ctx: ActivityContext) => {
    begun++;
    ctx.heartbeat("begun");
    await held.opened;
    return n + 1;
  };
  const resumed = (ctx: WorkflowContext, n: number) => ctx.activity<number>("slow", n);
  await work(t, near, { workflows: { resumed }, activities: { slow } });
  const run = await c.startRun("resumed", 1, { taskQueue: queue(t) });
  // A task of which the service has heard nothing yet would go to anybody.
  const heard = async () => (await c.runs.listRunSteps({ runId: run.id })).steps.some((step) => step.heartbeatTime);
  await soon("the activity is at work", heard);
  link.cut();
  link.cut();
  held.open();
  assert.equal(await run.result(), 2);
  assert.equal(begun, 1);
});

test("a call may have any time", async (t) => {
  const c = client(t, { callTimeout: 9_999.5 });
  const job = await c.startJob("say", "Ada", { taskQueue: queue(t) });
  assert.equal((await job.describe()).type, "say");
});

test("who has no end of time to leave is waited for", async (t) => {
  const c = client(t);
  const begun = gate();
  const held = gate();
  const slow = async (n: number, { signal }: ActivityContext) => {
    begun.open();
    await held.opened;
    signal.throwIfAborted();
    return n;
  };
  const stop = await work(t, c, { activities: { slow }, drainTime: Infinity });
  const job = await c.startJob("slow", 3, { taskQueue: queue(t) });
  await begun.opened;
  const stopped = stop();
  // Nothing is to come of the leaving: what it would give back is given back by then.
  const other = await c.startJob("nobody", null, { taskQueue: queue(t) });
  await other.cancel();
  held.open();
  await stopped;
  const found = await job.describe();
  assert.deepEqual([found.state, found.attempt], [4, 1]);
});

test("a worker runs once", async (t) => {
  const worker = new Worker(client(t), { taskQueues: [queue(t)], activities: { idle: () => {} } });
  const running = worker.run();
  await assert.rejects(worker.run(), /runs once/);
  worker.shutdown();
  await running;
});

test("who leaves finishes what is in work", async (t) => {
  const c = client(t);
  const begun = gate();
  const held = gate();
  const slow = async (n: number) => {
    begun.open();
    await held.opened;
    return n;
  };
  const stop = await work(t, c, { activities: { slow } });
  const job = await c.startJob("slow", 3, { taskQueue: queue(t) });
  await begun.opened;
  const stopped = stop();
  held.open();
  await stopped;
  const found = await job.describe();
  assert.deepEqual([found.state, found.attempt], [4, 1]);
});

test("what a job comes to and can't be told is its failure, and the worker stands", async (t) => {
  const c = client(t);
  const large = () => "x".repeat(5_000_000);
  const odd = () => {
    throw new ApplicationError("odd", { type: "Odd", nonRetryable: true, details: 1n });
  };
  const strange = () => {
    throw Object.assign(Object.create(null), { code: 5 });
  };
  const beats = (_: unknown, ctx: ActivityContext) => ctx.heartbeat("x".repeat(3_000_000));
  await work(t, c, { activities: { large, odd, strange, beats, echo: (value: unknown) => value }, log: silent });
  const fails = async (type: string, kind: string, retry?: RetryPolicy) => {
    const job = await c.startJob(type, null, { taskQueue: queue(t), retry });
    await assert.rejects(job.result(), (error) => error instanceof RunError && error.failure?.type === kind);
  };
  await fails("large", "PayloadTooLarge");
  await fails("odd", "Odd");
  await fails("strange", "Error", { maximumAttempts: 1 });
  await fails("beats", "PayloadTooLarge");
  assert.equal(await (await c.startJob("echo", 5, { taskQueue: queue(t) })).result(), 5);
});

test("a job's name, delay and retry", async (t) => {
  const c = client(t);
  let calls = 0;
  const fails = () => {
    if (++calls === 1) throw new ApplicationError("no", { nonRetryable: true });
    return calls;
  };
  const options = { taskQueue: queue(t), uniqueKey: "one", startDelay: 3_600_000, priority: 9, correlationId: "all" };
  const job = await c.startJob("fails", null, options);
  await assert.rejects(c.startJob("fails", null, options), (error) => error instanceof ServiceError && error.reason === "UNIQUE_KEY_IN_USE");
  const same = await c.startJob("fails", null, { ...options, conflict: "USE_EXISTING" });
  assert.equal(same.id, job.id);
  await advance(c, 3_600_000);
  await work(t, c, { activities: { fails } });
  await assert.rejects(job.result(), (error) => error instanceof RunError && error.ended === "FAILED");
  await job.retry();
  assert.equal(await job.result(), 2);
  await assert.rejects(c.startJob("fails", null, { ...options, reuse: "REJECT" }), ServiceError);
});

test("ends of jobs are watched, also over a stream that breaks", async (t) => {
  const link = await Link.start(t);
  const near = client(t, {}, link.address);
  const c = client(t);
  const ends = await near.watchJobs();
  const types = { done: () => "x".repeat(100_000), fails: () => Promise.reject(new ApplicationError("no", { nonRetryable: true })) };
  await work(t, c, { activities: types });
  const first = await c.startJob("done", null, { taskQueue: queue(t), uniqueKey: "first" });
  const told = await ends.next();
  assert.ok(!told.done);
  const { id, ended, uniqueKey, result } = told.value;
  assert.deepEqual([id, ended, uniqueKey, (result as string).length], [first.id, "COMPLETED", "first", 100_000]);
  link.cut();
  const second = await c.startJob("fails", null, { taskQueue: queue(t) });
  await assert.rejects(second.result());
  for await (const end of ends) {
    assert.deepEqual([end.id, end.ended, end.failure?.message], [second.id, "FAILED", "no"]);
    break;
  }
});

test("refusals are errors", async (t) => {
  const c = client(t);
  const workflowId = `taken ${Date.now()}`;
  await c.startRun("nobody", null, { workflowId });
  const refused = (reason: string) => (error: unknown) => error instanceof ServiceError && error.reason === reason;
  await assert.rejects(c.startRun("nobody", null, { workflowId }), refused("WORKFLOW_ID_IN_USE"));
  await assert.rejects(c.startRun(""), (error) => refused("INVALID_FIELD")(error) && Object.keys((error as ServiceError).fields).length > 0);
  await assert.rejects(c.runOf("no such name"), refused("RUN_NOT_FOUND"));
});

/** A codec that anybody can read, from behind. */
const reversed: Codec = {
  encode: (payload) => turned(payload, "data"),
  decode: (payload) => turned(payload, "json"),
};

function turned(payload: Payload, to: "data" | "json"): Payload {
  const text = Buffer.from(payload.body.value as string | Uint8Array).reverse();
  const body = to === "data" ? ({ case: "data", value: new Uint8Array(text) } as const) : ({ case: "json", value: text.toString() } as const);
  return create(PayloadSchema, { body });
}

test("a codec hides payloads", async (t) => {
  const c = client(t, { codec: reversed });
  const say = (name: string) => `Hello, ${name}!`;
  const hidden = (ctx: WorkflowContext, name: string) => ctx.activity<string>("say", name);
  await work(t, c, { workflows: { hidden }, activities: { say } });
  const run = await c.startRun("hidden", "Ada", { taskQueue: queue(t) });
  assert.equal(await run.result(), "Hello, Ada!");
  const { result } = await run.describe();
  assert.equal(Buffer.from(result!.body.value as Uint8Array).toString(), '"!adA ,olleH"');
});
