import assert from "node:assert/strict";
import { createServer, connect as dial, type Server as Listener, type Socket } from "node:net";
import { after, before, test as plainTest, type TestContext } from "node:test";

import { Client, type ClientOptions, type Log, type Run, Worker, type WorkerOptions } from "../src/index.js";
import { NotInstalled, Server } from "../src/testing.js";

let server: Server | undefined;
let missing = "";

/** A test that needs the service: skipped where there is none to start, a failure there if CI is set. */
export function test(name: string, call: (t: TestContext) => Promise<void>): void {
  void plainTest(name, { timeout: 60_000 }, async (t) => (missing ? t.skip(missing) : call(t)));
}

/** Starts one service for the tests of a file. */
export function withService(): void {
  before(async () => {
    const quick = { STEPWELL_SESSION_SECONDS: "4", STEPWELL_HEARTBEAT_SECONDS: "1", STEPWELL_ACK_SECONDS: "2" };
    try {
      server = await Server.start(quick);
    } catch (error) {
      if (!(error instanceof NotInstalled) || process.env["CI"]) throw error;
      missing = error.message;
    }
  });
  after(() => server?.stop());
}

const cleanups = new WeakMap<TestContext, (() => unknown)[]>();

/** Has something done when the test is over: what came last goes first. */
export function afterwards(t: TestContext, call: () => unknown): void {
  const known = cleanups.get(t);
  if (known) return void known.push(call);
  const calls = [call];
  cleanups.set(t, calls);
  t.after(async () => {
    for (const each of calls.reverse()) await each();
  });
}

export function address(): string {
  return server!.address;
}

export function client(t: TestContext, options: ClientOptions = {}, at = address()): Client {
  const made = new Client(at, options);
  afterwards(t, () => made.close());
  return made;
}

/** Something that is waited for until it is opened. */
export function gate(): { opened: Promise<void>; open: () => void } {
  let open!: () => void;
  return { opened: new Promise<void>((resolve) => (open = resolve)), open };
}

/** Says nothing. */
export const silent: Log = { info: () => {}, warn: () => {}, error: () => {} };

/** A queue of the test's own. */
export function queue(t: TestContext): string {
  return t.name;
}

/** Runs a worker until the test ends, or `stop` is called. */
export async function work(t: TestContext, of: Client, options: WorkerOptions): Promise<() => Promise<void>> {
  const worker = new Worker(of, { taskQueues: [queue(t)], ...options });
  const running = worker.run();
  let stopped = false;
  const stop = async () => {
    if (stopped) return;
    stopped = true;
    worker.shutdown();
    await running;
  };
  await Promise.race([worker.connected, running]);
  afterwards(t, stop);
  return stop;
}

export async function soon(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 30_000; !(await holds()); ) {
    assert.ok(Date.now() < end, `never came: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Waits until a run waits. */
export async function waits(run: Run): Promise<void> {
  await soon("the run waits", async () => (await run.describe()).phase === 3);
}

/** A run's steps as name/STATE, by ordinal. */
export async function steps(of: Client, run: Run): Promise<string> {
  const states = ["", "PENDING", "RUNNING", "WAITING", "COMPLETED", "FAILED", "SKIPPED", "CANCELLED"];
  const { steps } = await of.runs.listRunSteps({ runId: run.id });
  return steps.map((step) => `${step.name}/${states[step.state]}`).join(" ");
}

/** A proxy that can be cut. */
export class Link {
  private readonly open = new Set<Socket>();
  private constructor(private readonly listener: Listener) {}

  static async start(t: TestContext): Promise<Link> {
    const listener = createServer((near) => {
      const [host, port] = address().split(":");
      const far = dial(Number(port), host);
      for (const [one, other] of [
        [near, far],
        [far, near],
      ] as const) {
        link.open.add(one);
        one.on("error", () => other.destroy());
        one.on("close", () => {
          link.open.delete(one);
          other.destroy();
        });
        one.pipe(other);
      }
    });
    const link = new Link(listener);
    await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve));
    afterwards(t, () => {
      listener.close();
      link.cut();
    });
    return link;
  }

  get address(): string {
    const found = this.listener.address();
    assert.ok(found && typeof found === "object");
    return `127.0.0.1:${found.port}`;
  }

  /** Ends all connections that are open; later ones are let through. */
  cut(): void {
    for (const socket of [...this.open]) socket.destroy();
  }
}
