/** A worker in a process of its own: ADDRESS QUEUE LEDGER. */

import { appendFileSync, existsSync } from "node:fs";

import { type ActivityContext, Client, Worker, type WorkflowContext } from "../src/index.js";
import { delay } from "../src/times.js";

const [address, queue, ledger] = process.argv.slice(2) as [string, string, string];
const note = (line: string) => appendFileSync(ledger, `${line}\n`);

const double = async (n: number, ctx: ActivityContext) => {
  note("begin");
  while (!existsSync(`${ledger}.go`)) await delay(5, ctx.signal);
  note("end");
  return 2 * n;
};

const killable = async (ctx: WorkflowContext, n: number) => {
  const one = await ctx.step("one", () => {
    note("step");
    return 1;
  });
  return one + (await ctx.activity<number>("double", n));
};

await new Worker(new Client(address), { taskQueues: [queue], workflows: { killable }, activities: { double } }).run();
