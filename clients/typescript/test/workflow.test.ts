import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { ApplicationError, RunCancelled, RunError, ServiceError, StepError, WaitTimeout, type WorkflowContext } from "../src/index.js";
import { advance } from "../src/testing.js";
import { address, afterwards, client, queue, silent, soon, steps, waits, test, withService, work } from "./kit.js";

const HOUR = 3_600_000;

withService();

const say = (name: string) => `Hello, ${name}!`;

test("activities in parallel", async (t) => {
  const c = client(t);
  const greet = (ctx: WorkflowContext, names: string[]) =>
    ctx.map(names, (ctx, name) => ctx.activity<string>("say", name), { limit: 2 });
  await work(t, c, { workflows: { greet }, activities: { say } });
  const run = await c.startRun("greet", ["Ada", "Grace", "Mary"], { taskQueue: queue(t) });
  assert.deepEqual(await run.result(), ["Hello, Ada!", "Hello, Grace!", "Hello, Mary!"]);
});

test("many starts at once", async (t) => {
  const c = client(t);
  await work(t, c, { workflows: { double: async (_ctx, n: number) => 2 * n } });
  const runs = await Promise.all(Array.from({ length: 200 }, (_, n) => c.startRun("double", n, { taskQueue: queue(t) })));
  const results = await Promise.all(runs.map((run) => run.result<number>()));
  assert.deepEqual(results, Array.from({ length: 200 }, (_, n) => 2 * n));
});

test("a step is called once", async (t) => {
  const c = client(t);
  let calls = 0;
  let turns = 0;
  const once = async (ctx: WorkflowContext) => {
    turns++;
    const first = await ctx.step("count", () => ++calls);
    await ctx.waitSignal("go");
    return first;
  };
  const stop = await work(t, c, { workflows: { once } });
  const run = await c.startRun("once", null, { taskQueue: queue(t) });
  await waits(run);
  await stop();
  await work(t, c, { workflows: { once } });
  await run.signal("go");
  assert.equal(await run.result(), 1);
  assert.deepEqual([calls, turns], [1, 2]);
});

test("a function that fails is called again by its policy, and its last failure recorded", async (t) => {
  const c = client(t);
  let calls = 0;
  const retried = async (ctx: WorkflowContext) => {
    const retry = { initialInterval: 1, maximumAttempts: 3 };
    try {
      await ctx.step("fails", () => { calls++; throw new TypeError("no"); }, { retry });
    } catch (error) {
      assert.ok(error instanceof StepError);
      return error.failure.type;
    }
    return "";
  };
  await work(t, c, { workflows: { retried } });
  const run = await c.startRun("retried", null, { taskQueue: queue(t) });
  assert.equal(await run.result(), "TypeError");
  assert.equal(calls, 3);
});

test("sleep goes by the service's clock", async (t) => {
  const c = client(t);
  const nap = async (ctx: WorkflowContext, days: number) => {
    await ctx.sleep(days * 24 * HOUR);
    return "rested";
  };
  await work(t, c, { workflows: { nap } });
  const run = await c.startRun("nap", 3, { taskQueue: queue(t) });
  await waits(run);
  await advance(c, 72 * HOUR);
  assert.equal(await run.result(), "rested");
});

test("a time span may be any fraction", async (t) => {
  const c = client(t);
  const nap = async (ctx: WorkflowContext) => {
    await ctx.sleep(1.1 * 3);
    await ctx.sleep(100 / 7);
    return "rested";
  };
  await work(t, c, { workflows: { nap } });
  const run = await c.startRun("nap", null, { taskQueue: queue(t), runTimeout: HOUR / 7 });
  assert.equal(await run.result(), "rested");
});

test("what a run comes to and can't be told is its failure, and the worker stands", async (t) => {
  const c = client(t);
  const large = async () => "x".repeat(5_000_000);
  const odd = async () => {
    throw new ApplicationError("odd", { type: "Odd", details: 1n });
  };
  const endless = (ctx: WorkflowContext) => ctx.sleep(Number.NaN);
  await work(t, c, { workflows: { large, odd, endless, fine: async () => 5 }, log: silent });
  for (const [type, kind] of [
    ["large", "PayloadTooLarge"],
    ["odd", "Odd"],
    ["endless", "RangeError"],
  ] as const) {
    const run = await c.startRun(type, null, { taskQueue: queue(t) });
    await assert.rejects(run.result(), (error) => error instanceof RunError && error.failure?.type === kind);
  }
  assert.equal(await (await c.startRun("fine", null, { taskQueue: queue(t) })).result(), 5);
});

test("what nobody awaited is no value", async (t) => {
  const c = client(t);
  const broken = async () => {
    throw new Error("nobody looks");
  };
  const fact = async (ctx: WorkflowContext) => ctx.sideEffect("fact", async () => 7);
  const asked = async (ctx: WorkflowContext) => {
    ctx.handleQuery("state", broken);
    await ctx.waitSignal("end");
  };
  await work(t, c, { workflows: { fact, asked } });
  const odd = await c.startRun("fact", null, { taskQueue: queue(t) });
  await assert.rejects(odd.result(), /promise/);
  const run = await c.startRun("asked", null, { taskQueue: queue(t) });
  await assert.rejects(run.query("state"), (error) => error instanceof ServiceError && /promise/.test(error.metadata["message"] ?? error.message));
  await run.signal("end");
  await run.result();
});

test("branches without a limit that counts are refused", async (t) => {
  const c = client(t);
  const none = (ctx: WorkflowContext) => ctx.map([1], async () => 1, { limit: Number.NaN });
  await work(t, c, { workflows: { none } });
  const run = await c.startRun("none", null, { taskQueue: queue(t) });
  await assert.rejects(run.result(), /RangeError/);
});

test("a run of ten thousand steps is read page by page", async (t) => {
  const c = client(t);
  const text = "x".repeat(300);
  let made = 0;
  const make = () => {
    made++;
    return text;
  };
  const long = async (ctx: WorkflowContext) => {
    let sum = 0;
    for (let place = 0; place < 5000; place++) sum += ctx.sideEffect("place", make).length;
    await ctx.map(Array.from({ length: 5000 }), async (ctx) => ctx.sideEffect("place", make));
    return sum + (await ctx.waitSignal<number>("go"));
  };
  const stop = await work(t, c, { workflows: { long } });
  const run = await c.startRun("long", null, { taskQueue: queue(t) });
  await waits(run);
  await stop();
  await work(t, c, { workflows: { long } });
  await run.signal("go", 1);
  assert.equal(await run.result(), 5000 * 300 + 1);
  assert.equal(made, 10_000);
});

test("large inputs and results are taken in, also in a replay", async (t) => {
  const c = client(t);
  const input = "x".repeat(2_097_100);
  let turns = 0;
  const large = async (ctx: WorkflowContext, text: string) => {
    const copies = await ctx.map([1, 2, 3], (ctx) => ctx.activity<string>("copies", text));
    turns++;
    await ctx.waitSignal("go");
    return copies.map((copy) => copy.length);
  };
  const stop = await work(t, c, { workflows: { large }, activities: { copies: (text: string) => text } });
  const run = await c.startRun("large", input, { taskQueue: queue(t) });
  await soon("all copies are there", () => turns === 1);
  await waits(run);
  await stop();
  await work(t, c, { workflows: { large } });
  await run.signal("go");
  assert.deepEqual(await run.result(), Array(3).fill(input.length));
});

test("a wait is bounded", async (t) => {
  const c = client(t);
  const patient = async (ctx: WorkflowContext) => {
    try {
      return await ctx.waitSignal<string>("word", { timeout: HOUR });
    } catch (error) {
      assert.ok(error instanceof WaitTimeout);
      return "nobody came";
    }
  };
  await work(t, c, { workflows: { patient } });
  const run = await c.startRun("patient", null, { taskQueue: queue(t) });
  await waits(run);
  await advance(c, 2 * HOUR);
  assert.equal(await run.result(), "nobody came");
});

test("children and their failures", async (t) => {
  const c = client(t);
  const child = async (_ctx: WorkflowContext, name: string) => {
    if (!name) throw new ApplicationError("it has no name", { type: "Nameless" });
    return `${name}!`;
  };
  const parent = async (ctx: WorkflowContext, name: string) => {
    const good = await ctx.child<string>("child", name);
    try {
      await ctx.child("child", "");
    } catch (error) {
      assert.ok(error instanceof StepError);
      return `${good} ${error.failure.type}`;
    }
    return "";
  };
  await work(t, c, { workflows: { child, parent } });
  const run = await c.startRun("parent", "Ada", { taskQueue: queue(t) });
  assert.equal(await run.result(), "Ada! Nameless");
});

test("a failed run says why", async (t) => {
  const c = client(t);
  const fails = async () => {
    throw new ApplicationError("as told", { type: "Broken", details: { at: 7 } });
  };
  await work(t, c, { workflows: { fails } });
  const run = await c.startRun("fails", null, { taskQueue: queue(t) });
  await assert.rejects(run.result(), (error) => error instanceof RunError && error.ended === "FAILED" && error.failure?.type === "Broken");
});

test("a cancellation is heard where the code waits, and in a replay there too", async (t) => {
  const c = client(t);
  const clean = async (ctx: WorkflowContext) => {
    try {
      await ctx.waitSignal("never");
    } catch (error) {
      assert.ok(error instanceof RunCancelled);
      await ctx.activity("say", "bye");
      await ctx.waitSignal("cleaned");
      throw error;
    }
  };
  const stop = await work(t, c, { workflows: { clean }, activities: { say } });
  const run = await c.startRun("clean", null, { taskQueue: queue(t) });
  await waits(run);
  await run.cancel("enough");
  await soon("the clean-up is recorded", async () => (await steps(c, run)).includes("say/COMPLETED"));
  await stop();
  await work(t, c, { workflows: { clean }, activities: { say } });
  await run.signal("cleaned");
  await assert.rejects(run.result(), (error) => error instanceof RunError && error.ended === "CANCELLED");
  assert.equal(await steps(c, run), "never/CANCELLED __cancelled/COMPLETED say/COMPLETED cleaned/COMPLETED");
});

for (const isAway of [false, true]) {
  test(`a cancellation is heard in place of the end that it brought, ${isAway ? "also while nobody has the run" : "at once"}`, async (t) => {
    const c = client(t);
    const clean = async (ctx: WorkflowContext) => {
      try {
        await ctx.activity("slow", null, { taskQueue: "nobody" });
      } catch (error) {
        assert.ok(error instanceof RunCancelled, String(error));
        await ctx.waitSignal("cleaned");
        throw error;
      }
    };
    let stop = await work(t, c, { workflows: { clean } });
    const run = await c.startRun("clean", null, { taskQueue: queue(t) });
    await waits(run);
    if (isAway) await stop();
    await run.cancel("enough");
    if (isAway) stop = await work(t, c, { workflows: { clean } });
    await soon("it is heard", async () => (await steps(c, run)).includes("__cancelled/COMPLETED"));
    await stop();
    await work(t, c, { workflows: { clean } });
    await run.signal("cleaned");
    await assert.rejects(run.result(), (error) => error instanceof RunError && error.ended === "CANCELLED");
    assert.equal(await steps(c, run), "slow/CANCELLED __cancelled/COMPLETED cleaned/COMPLETED");
  });
}

test("a cancellation in branches leaves what is shielded", async (t) => {
  const c = client(t);
  const branches = async (ctx: WorkflowContext) => {
    const wait = (ctx: WorkflowContext) => ctx.waitSignal("never");
    await ctx.all(wait, wait, (ctx) => ctx.shield((ctx) => ctx.sleep(HOUR)));
  };
  await work(t, c, { workflows: { branches } });
  const run = await c.startRun("branches", null, { taskQueue: queue(t) });
  await waits(run);
  await run.cancel();
  await soon("both have heard", async () => (await steps(c, run)).split("__cancelled").length === 3);
  await advance(c, 2 * HOUR);
  await assert.rejects(run.result(), (error) => error instanceof RunError && error.ended === "CANCELLED");
});

test("two calls of one branch at once are refused", async (t) => {
  const c = client(t);
  const hasty = async (ctx: WorkflowContext) => {
    await Promise.all([ctx.activity("say", "a"), ctx.activity("say", "b")]);
  };
  await work(t, c, { workflows: { hasty }, activities: { say } });
  const run = await c.startRun("hasty", null, { taskQueue: queue(t) });
  await assert.rejects(run.result(), (error) => error instanceof RunError && !!error.failure?.message.includes("ctx.all"));
});

test("queries, and what is published", async (t) => {
  const c = client(t);
  const asked = async (ctx: WorkflowContext) => {
    const count = 41;
    ctx.handleQuery("count", (more: number) => count + more);
    ctx.publish("state", "waits");
    await ctx.waitSignal("end");
  };
  const stop = await work(t, c, { workflows: { asked } });
  const run = await c.startRun("asked", null, { taskQueue: queue(t) });
  assert.equal(await run.query("count", 1), 42);
  await assert.rejects(run.query("other"), (error) => error instanceof ServiceError && error.metadata["type"] === "UnknownQuery");
  await stop();
  assert.equal(await run.query("state"), "waits");
});

test("continue as new is followed", async (t) => {
  const c = client(t);
  const countdown = async (ctx: WorkflowContext, n: number) => (n ? ctx.continueAsNew(n - 1) : "lift-off");
  await work(t, c, { workflows: { countdown } });
  const run = await c.startRun("countdown", 3, { taskQueue: queue(t) });
  assert.equal(await run.result(), "lift-off");
});

test("side effects stay, patches tell", async (t) => {
  const c = client(t);
  let made = 0;
  const patched = (isNew: boolean) => async (ctx: WorkflowContext) => {
    const value = ctx.sideEffect("made", () => ++made);
    await ctx.waitSignal("go");
    return [value, isNew && ctx.patched("greets")];
  };
  const stop = await work(t, c, { workflows: { patched: patched(false) } });
  const run = await c.startRun("patched", null, { taskQueue: queue(t) });
  await waits(run);
  await stop();
  await work(t, c, { workflows: { patched: patched(true) } });
  await run.signal("go");
  assert.deepEqual(await run.result(), [1, true]);
  assert.equal(made, 1);
});

test("changed code pauses the run", async (t) => {
  const c = client(t);
  const changed = (name: string) => async (ctx: WorkflowContext) => {
    await ctx.step(name, () => 1);
    await ctx.waitSignal("go");
  };
  const stop = await work(t, c, { workflows: { changed: changed("before") } });
  const run = await c.startRun("changed", null, { taskQueue: queue(t) });
  await waits(run);
  await stop();
  await work(t, c, { workflows: { changed: changed("after") }, log: silent });
  await run.signal("go");
  await soon("the run is paused", async () => (await run.describe()).pause?.reason === "ORDER_CHANGED");
});

test("a killed worker loses nothing", async (t) => {
  const c = client(t);
  const ledger = join(mkdtempSync(join(tmpdir(), "ledger-")), "ledger");
  const told = () => (existsSync(ledger) ? readFileSync(ledger, "utf8") : "");
  const begin = () => {
    const program = fileURLToPath(new URL("./killable.js", import.meta.url));
    const child = spawn(process.execPath, [program, address(), queue(t), ledger], { stdio: "inherit" });
    afterwards(t, () => child.kill("SIGKILL"));
    return child;
  };
  const first = begin();
  const run = await c.startRun("killable", 5, { taskQueue: queue(t) });
  await soon("the activity begins", () => told().includes("begin"));
  first.kill("SIGKILL");
  writeFileSync(`${ledger}.go`, "");
  begin();
  assert.equal(await run.result(), 11);
  assert.deepEqual(told().trim().split("\n").sort(), ["begin", "begin", "end", "step"]);
});
