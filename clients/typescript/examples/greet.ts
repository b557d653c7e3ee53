/** A worker, a workflow, an activity and a program that starts a run, in one. */

import { Client, Worker, type WorkflowContext } from "../src/index.js";

const say = (name: string) => `Hello, ${name}!`;

async function greet(ctx: WorkflowContext, names: string[]): Promise<string[]> {
  await ctx.sleep(1000);
  return ctx.map(names, (ctx, name) => ctx.activity<string>("say", name));
}

const client = new Client(process.env["STEPWELL_ADDRESS"] ?? "127.0.0.1:7233");
const worker = new Worker(client, { workflows: { greet }, activities: { say } });
const working = worker.run();
const run = await client.startRun("greet", ["Ada", "Grace"]);
console.log(await run.result());
worker.shutdown();
await working;
client.close();
