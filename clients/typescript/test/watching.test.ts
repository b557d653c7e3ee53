import assert from "node:assert/strict";
import type { TestContext } from "node:test";

import { Code, ConnectError } from "@connectrpc/connect";

import type { Client, WorkflowContext } from "../src/index.js";
import { client, queue, test, withService, work } from "./kit.js";

withService();

const workflows = {
  echo: (_: WorkflowContext, what: number) => Promise.resolve(what),
  waits: (ctx: WorkflowContext) => ctx.waitSignal<string>("go"),
  twice: (ctx: WorkflowContext, left: number) => (left ? ctx.continueAsNew(left - 1) : Promise.resolve(7)),
};

/** What a client's watch told, how often it asked, and whether the watch breaks at its next message. */
interface Seen {
  heard: string[];
  waits: number;
  isBroken: boolean;
}

/** Looks on at a client's calls, and waits until its watch is live: what it starts from then on is told to it. */
async function watched(t: TestContext, c: Client): Promise<Seen> {
  const seen: Seen = { heard: [], waits: 0, isBroken: false };
  const { watchRuns, waitRun } = c.runs;
  c.runs.watchRuns = async function* (request, options) {
    for await (const message of watchRuns(request, options)) {
      if (seen.isBroken) throw new ConnectError("the cursor is too old", Code.InvalidArgument);
      seen.heard.push(...message.ends.map(({ runId }) => runId));
      yield message;
    }
  };
  c.runs.waitRun = (request, options) => {
    seen.waits++;
    return waitRun(request, options);
  };
  for (let before = -1; before !== seen.waits; ) {
    before = seen.waits;
    await (await c.startRun("echo", 1, { taskQueue: queue(t) })).result();
  }
  seen.heard = [];
  seen.waits = 0;
  return seen;
}

test("a client hears of its own runs alone, and asks for others", async (t) => {
  const [c, other] = [client(t), client(t)];
  await work(t, other, { workflows });
  const seen = await watched(t, c);
  const theirs = await other.startRun("echo", 2, { taskQueue: queue(t) });
  await theirs.result();
  const mine = await c.startRun("echo", 1, { taskQueue: queue(t) });
  assert.equal(await mine.result(), 1);
  assert.deepEqual([seen.heard, seen.waits], [[mine.id], 0]);
  assert.equal(await c.run(theirs.id).result(), 2);
  const chain = await c.startRun("twice", 2, { taskQueue: queue(t) });
  assert.equal(await chain.result(), 7);
});

test("a lost watch is no lost end: what is waited for is asked for", async (t) => {
  const [c, other] = [client(t), client(t)];
  await work(t, other, { workflows });
  const seen = await watched(t, c);
  const run = await c.startRun("waits", null, { taskQueue: queue(t) });
  const result = run.result();
  seen.isBroken = true;
  await (await c.startRun("echo", 1, { taskQueue: queue(t) })).result();
  await other.run(run.id).signal("go", "well");
  assert.equal(await result, "well");
  assert.equal(seen.waits, 2);
});

test("a wait that is given up, or whose client is closed, ends", async (t) => {
  const c = client(t);
  await work(t, client(t), { workflows });
  await watched(t, c);
  const run = await c.startRun("waits", null, { taskQueue: queue(t) });
  await assert.rejects(run.result({ signal: AbortSignal.abort(new Error("enough")) }), /enough/);
  const [told, asked] = [run.result(), c.run(run.id).result()];
  c.close();
  for (const each of [told, asked]) await assert.rejects(each, { name: "ClientClosed" });
});
