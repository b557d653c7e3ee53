import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import type { TestContext } from "node:test";
import { setTimeout as pause } from "node:timers/promises";

import { clone, create } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";

import { StepKind, StepState } from "../src/gen/stepwell/v1/types_pb.js";
import { JobState } from "../src/gen/stepwell/v1/jobs_pb.js";
import {
  CancelTaskSchema,
  ConnectResponseSchema,
  HelloSchema,
  type Report,
  ReportResult_Remedy,
  StepRecordSchema,
  type Task,
  TaskHeartbeatResultSchema,
  TaskKind,
  UpdateSchema,
} from "../src/gen/stepwell/v1/workers_pb.js";
import { type ActivityContext, type Client, type Job, RunError, TaskLost, type WorkerOptions, type WorkflowContext } from "../src/index.js";
import { connect } from "../src/calls.js";
import { Outbox } from "../src/outbox.js";
import { Session } from "../src/session.js";
import { afterwards, client, gate, queue, silent, soon, test, waits, withService, work } from "./kit.js";
import { refusal, Tap } from "./tap.js";

withService();

/** A client that starts things, a tap, and how to begin a worker behind it. */
async function tapped(t: TestContext): Promise<{ c: Client; tap: Tap; begin: (options: WorkerOptions) => Promise<() => Promise<void>> }> {
  const tap = await Tap.start(t);
  const near = client(t, {}, tap.address);
  return { c: client(t), tap, begin: (options) => work(t, near, { log: silent, ...options }) };
}

/** What a worker of another language has recorded of an update. */
const ACCEPTED = { scope: "0", name: "__update", key: "accepted", ordinal: 1_000, kind: StepKind.MARKER, state: StepState.COMPLETED };

const start = (t: TestContext, c: Client, type: string, input?: unknown): Promise<Job> => c.startJob(type, input, { taskQueue: queue(t) });

/** Waits until the signal ends, and throws its reason. */
const stopped = (signal: AbortSignal) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));

test("what is assigned twice is done once", async (t) => {
  const { c, tap, begin } = await tapped(t);
  const counts = { runs: 0, jobs: 0 };
  tap.onTold = (message) => {
    if (message.assigns.length) tap.tell({ assigns: message.assigns.map((task) => ({ ...task })) });
    return message;
  };
  const open = gate();
  const once = async () => {
    counts.jobs++;
    await open.opened;
    return "done";
  };
  const alone = async (ctx: WorkflowContext) => {
    counts.runs++;
    return ctx.waitSignal<string>("go");
  };
  await begin({ workflows: { alone }, activities: { once } });
  const job = await start(t, c, "once");
  const run = await c.startRun("alone", null, { taskQueue: queue(t) });
  await waits(run);
  await soon("the job has begun", () => counts.jobs > 0);
  open.open();
  await run.signal("go", "gone");
  assert.deepEqual([await job.result(), await run.result()], ["done", "gone"]);
  assert.deepEqual(counts, { runs: 1, jobs: 1 });
});

test("a task that a heartbeat finds lost is stopped, and reported all the same", async (t) => {
  const { c, tap, begin } = await tapped(t);
  const holds = async (_: unknown, ctx: ActivityContext) => {
    ctx.heartbeat();
    await stopped(ctx.signal);
  };
  tap.onSaid = (message) => {
    for (const { ref } of message.heartbeats) {
      tap.tell({ heartbeats: [create(TaskHeartbeatResultSchema, { ref: ref!, lost: true })] });
    }
    return message;
  };
  await begin({ activities: { holds } });
  await start(t, c, "holds");
  await soon("a report", () => tap.reports.length > 0);
  assert.equal(tap.reports[0]!.outcome.case, "cancelled");
});

test("who leaves gives back what comes late", async (t) => {
  const { c, tap, begin } = await tapped(t);
  const open = gate();
  const late: Task[] = [];
  tap.onTold = (message) => {
    late.push(...message.assigns.filter(({ kind }) => kind === TaskKind.RUN));
    message.assigns = message.assigns.filter(({ kind }) => kind !== TaskKind.RUN);
    return message;
  };
  tap.onSaid = (message) => {
    if (message.drain) tap.tell({ assigns: late });
    return message;
  };
  const patient = (ctx: WorkflowContext) => ctx.waitSignal("never");
  const stop = await begin({ workflows: { patient }, activities: { holds: () => open.opened }, drainTime: 3_600_000 });
  const job = await start(t, c, "holds");
  await soon("the job has begun", async () => (await job.describe()).state === JobState.RUNNING);
  await c.startRun("patient", null, { taskQueue: queue(t) });
  await soon("the run is given out", () => late.length > 0);
  const left = stop();
  await soon("the run is given back", () => tap.reports.some(({ outcome }) => outcome.case === "release"));
  open.open();
  await left;
});

/** Refusals after which the same report comes again. */
const PASSING: [string, Code][] = [
  ["JOB_BUSY", Code.Aborted],
  ["QUEUE_FULL", Code.ResourceExhausted],
  ["DATABASE_UNAVAILABLE", Code.Unavailable],
  ["DATABASE_CONTENDED", Code.Unavailable],
  ["OUTCOME_UNKNOWN", Code.Unavailable],
  ["INTERNAL_ERROR", Code.Internal],
];
const SOON = { nanos: 1_000_000 };

/** Refuses the reports that are chosen, as often as `refused` says so. */
function refusing(tap: Tap, remedy: ReportResult_Remedy, refused: (report: Report) => [string, Code] | undefined): void {
  tap.onSaid = (message) =>
    Tap.without(message, (report) => {
      const why = refused(report);
      if (why) tap.refuse(report, why[1], why[0], remedy);
      return why !== undefined;
    });
}

test("a report that is refused in passing comes again", async (t) => {
  const { c, tap, begin } = await tapped(t);
  const left = [...PASSING];
  refusing(tap, ReportResult_Remedy.REPEAT, () => left.pop());
  await begin({ activities: { echo: (value: unknown) => value }, workflows: { gives: async (_ctx, value: unknown) => value } });
  const jobs = await Promise.all(PASSING.map(([reason]) => start(t, c, "echo", reason)));
  assert.deepEqual(
    await Promise.all(jobs.map((job) => job.result())),
    PASSING.map(([reason]) => reason),
  );
  left.push(...PASSING);
  const runs = await Promise.all(PASSING.map(([reason]) => c.startRun("gives", reason, { taskQueue: queue(t) })));
  assert.deepEqual(
    await Promise.all(runs.map((run) => run.result())),
    PASSING.map(([reason]) => reason),
  );
  assert.equal(left.length, 0);
});

test("what is taken back is dropped, and done when it is given out again", async (t) => {
  const { c, tap, begin } = await tapped(t);
  const refused = new Set<string>();
  refusing(tap, ReportResult_Remedy.DROP, ({ ref }) => {
    if (refused.has(ref!.taskId)) return undefined;
    refused.add(ref!.taskId);
    return ["INTERNAL_ERROR", Code.Internal];
  });
  await begin({ activities: { echo: (value: unknown) => value }, workflows: { gives: async (_ctx, value: unknown) => value } });
  const job = await c.startJob("echo", 3, { taskQueue: queue(t), startToClose: 3000 });
  assert.equal(await job.result(), 3);
  const run = await c.startRun("gives", 4, { taskQueue: queue(t) });
  await soon("it is refused", () => refused.size === 2);
  tap.end();
  assert.equal(await run.result(), 4);
  assert.deepEqual(new Set(tap.reports.map(({ outcome }) => outcome.case)), new Set(["complete", "progress"]));
});

test("what can't be recorded is the failure of its job or run", async (t) => {
  const { c, tap, begin } = await tapped(t);
  const faults: [string, Code][] = [
    ["INVALID_FIELD", Code.InvalidArgument],
    ["LIMIT_EXCEEDED", Code.ResourceExhausted],
  ];
  const seen = new Map<string, [string, Code]>();
  refusing(tap, ReportResult_Remedy.FAIL, ({ ref, outcome }) => {
    const ends = outcome.case === "progress" ? outcome.value.end.case : outcome.case;
    if (ends !== "complete" || seen.has(ref!.taskId)) return undefined;
    seen.set(ref!.taskId, faults[seen.size % 2]!);
    return seen.get(ref!.taskId);
  });
  await begin({ activities: { echo: (value: unknown) => value }, workflows: { gives: async (_ctx, value: unknown) => value } });
  for (const [reason] of faults) {
    await assert.rejects((await start(t, c, "echo")).result(), (error) => error instanceof RunError && error.failure?.type === reason);
  }
  for (const [reason] of faults) {
    const run = await c.startRun("gives", null, { taskQueue: queue(t) });
    await assert.rejects(run.result(), (error) => error instanceof RunError && error.failure?.type === reason);
  }
});

test("what is lost is dropped, and nothing more said of it", async (t) => {
  const { c, tap, begin } = await tapped(t);
  const reasons = ["LEASE_LOST", "STEP_ORDER_CHANGED", "RUN_NOT_FOUND", "RUN_TERMINAL", "JOB_NOT_FOUND"];
  const left = [...reasons, ...reasons];
  refusing(tap, ReportResult_Remedy.DROP, () => [left.pop()!, Code.FailedPrecondition]);
  const stop = await begin({
    activities: { echo: (value: unknown) => value },
    workflows: { patient: (ctx: WorkflowContext) => ctx.waitSignal("never") },
    drainTime: 3_600_000,
  });
  await Promise.all(reasons.map(() => start(t, c, "echo")));
  await Promise.all(reasons.map(() => c.startRun("patient", null, { taskQueue: queue(t) })));
  await soon("all are refused", () => !left.length);
  await stop();
  assert.equal(tap.reports.length, 2 * reasons.length);
});

test("a report whose answer was lost comes again, as it was, and is known", async (t) => {
  const { c, tap, begin } = await tapped(t);
  let calls = 0;
  const counts = () => ++calls;
  tap.onTold = (message, stream) => {
    if (stream || !message.results.length) return message;
    tap.end();
    return undefined;
  };
  await begin({ activities: { counts } });
  const job = await start(t, c, "counts");
  await soon("it is reported again", () => tap.reports.length === 2);
  assert.deepEqual(tap.reports[0], tap.reports[1]);
  assert.equal(await job.result(), 1);
  await soon("it is answered", () => tap.told.some(({ results }) => results[0]?.status === 2));
});

test("a session that is over takes its tasks along, and another begins", async (t) => {
  const { c, tap, begin } = await tapped(t);
  let begun = 0;
  const reasons: unknown[] = [];
  const holds = async (_: unknown, { signal }: ActivityContext) => {
    if (begun++) return "again";
    return stopped(signal).catch((reason) => reasons.push(reason));
  };
  tap.onSaid = (message, stream) => {
    if (stream === 1 && message.hello) message.hello.sessionId = randomUUID();
    return message;
  };
  await begin({ activities: { holds } });
  const job = await start(t, c, "holds");
  await soon("it has begun", () => begun > 0);
  tap.end();
  assert.equal(await job.result(), "again");
  assert.ok(reasons[0] instanceof TaskLost);
  const hellos = tap.said.flatMap(({ hello }) => hello ?? []);
  assert.deepEqual(
    hellos.map(({ held, sessionId }) => [held.length, sessionId !== ""]),
    [
      [0, false],
      [1, true],
      [0, false],
    ],
  );
});

test("a stream that is to be moved is followed by another, with all that is held", async (t) => {
  const { c, tap, begin } = await tapped(t);
  const open = gate();
  let begun = 0;
  const holds = async () => {
    begun++;
    await open.opened;
    return "held";
  };
  await begin({ activities: { holds }, workflows: { patient: (ctx: WorkflowContext) => ctx.waitSignal("go") } });
  const run = await c.startRun("patient", null, { taskQueue: queue(t) });
  await waits(run);
  const job = await start(t, c, "holds");
  await soon("it has begun", () => begun > 0);
  tap.tell({ rotate: { within: SOON } });
  await soon("there is another stream", () => tap.said.filter(({ hello }) => hello).length === 2);
  open.open();
  await run.signal("go", "gone");
  assert.deepEqual([await job.result(), await run.result(), begun], ["held", "gone", 1]);
  assert.equal(tap.said.filter(({ hello }) => hello)[1]!.hello!.held.length, 2);
});

test("a stream that is heard of no more is pinged, and given up", async (t) => {
  const { tap } = await tapped(t);
  tap.onTold = (message) => (message.welcome ? message : undefined);
  const nobody = { held: () => [], received: () => {}, resumed: () => {}, sessionLost: () => {} };
  const told: string[] = [];
  const log = { ...silent, info: (text: string) => told.push(text) };
  const hello = create(HelloSchema, { workerId: "it", taskQueues: [queue(t)] });
  const session = new Session(() => connect(tap.address, "", undefined), hello, new Outbox(), nobody, log, 1500);
  const running = session.run();
  afterwards(t, async () => {
    session.close();
    await running;
  });
  await soon("it is given up", () => told.some((text) => text.includes("nothing was heard")));
  assert.ok(tap.said.some(({ ping }) => ping > 0));
  await soon("it is resumed", () => tap.said.filter(({ hello }) => hello?.sessionId).length > 0);
});

test("a stream that breaks often leaves nothing behind", async (t) => {
  const { tap, begin } = await tapped(t);
  const warnings: Error[] = [];
  const warned = (warning: Error) => warnings.push(warning);
  process.on("warning", warned);
  afterwards(t, () => process.off("warning", warned));
  await begin({ activities: { echo: (value: unknown) => value } });
  for (let streams = 1; streams < 13; streams++) {
    tap.end();
    await soon("it is resumed", () => tap.told.filter(({ welcome }) => welcome).length > streams);
  }
  assert.deepEqual(warnings, []);
});

test("who is told to come later does", async (t) => {
  const { c, tap, begin } = await tapped(t);
  const times: number[] = [];
  tap.onSaid = (message) => {
    if (message.hello) times.push(performance.now());
    return message;
  };
  tap.onTold = (message, stream) => {
    if (stream !== 1) return message;
    tap.end(refusal(Code.ResourceExhausted, "TOO_MANY_STREAMS", 1n));
    return undefined;
  };
  await begin({ activities: { echo: (value: unknown) => value } });
  tap.end();
  await soon("there is a third stream", () => times.length === 3);
  assert.equal(await (await start(t, c, "echo", 5)).result(), 5);
  assert.ok(times[2]! - times[1]! >= 990);
});

test("a clock that is set back silences nobody", async (t) => {
  const { tap, begin } = await tapped(t);
  await begin({ activities: { echo: (value: unknown) => value } });
  const now = Date.now;
  t.mock.method(Date, "now", () => now() - 3_600_000);
  const before = tap.said.length;
  const end = performance.now() + 20_000;
  while (tap.said.length < before + 3 && performance.now() < end) await pause(5);
  assert.ok(tap.said.length >= before + 3);
});

test("tasks that keep the process from its loop are acknowledged all the same", async (t) => {
  const { c, tap, begin } = await tapped(t);
  let calls = 0;
  const hard = () => {
    calls++;
    for (const end = performance.now() + 150; performance.now() < end; );
  };
  const jobs = await Promise.all(Array.from({ length: 20 }, () => start(t, c, "hard")));
  await begin({ activities: { hard } });
  await Promise.all(jobs.map((job) => job.result()));
  assert.equal(calls, 20);
  assert.ok(tap.told.every(({ revokes }) => !revokes.length));
});

test("an update is turned down once, however often it is told", async (t) => {
  const { c, tap, begin } = await tapped(t);
  tap.onTold = (message) => {
    const twice = clone(ConnectResponseSchema, message);
    for (const { updates } of [...twice.advances, ...twice.assigns]) updates.push(...updates.map((each) => ({ ...each })));
    return twice;
  };
  await begin({ workflows: { patient: (ctx: WorkflowContext) => ctx.waitSignal("go") } });
  const run = await c.startRun("patient", null, { taskQueue: queue(t) });
  await waits(run);
  await assert.rejects(run.update("change"), (error) => error instanceof Error && error.message.includes("takes no updates"));
  const rejected = tap.reports.flatMap(({ outcome }) => (outcome.case === "progress" ? outcome.value.rejections : []));
  assert.equal(rejected.length, 1);
});

test("an update that is recorded as accepted is passed over, also before all pages of the record are read", async (t) => {
  const { c, tap, begin } = await tapped(t);
  const long = async (ctx: WorkflowContext) => {
    for (let place = 0; place < 6; place++) ctx.sideEffect("large", () => "x".repeat(300_000));
    return ctx.waitSignal("go");
  };
  const stop = await begin({ workflows: { long } });
  const run = await c.startRun("long", null, { taskQueue: queue(t) });
  await waits(run);
  await stop();
  let pages = 0;
  tap.onTold = (message) => {
    for (const task of message.assigns) {
      assert.ok(task.moreSteps);
      task.updates.push(...["accepted", "fresh"].map((updateId) => create(UpdateSchema, { updateId })));
    }
    return message;
  };
  tap.onPage = (page) => {
    pages++;
    if (!page.moreSteps) page.steps.push(create(StepRecordSchema, ACCEPTED));
    return page;
  };
  await begin({ workflows: { long } });
  await run.signal("other");
  const rejections = () => tap.reports.flatMap(({ outcome }) => (outcome.case === "progress" ? outcome.value.rejections : []));
  await soon("an update is rejected", () => rejections().length > 0);
  assert.deepEqual(
    rejections().map(({ updateId }) => updateId),
    ["fresh"],
  );
  assert.ok(pages > 0);
});

test("a job that is asked to stop before it begins is not begun", async (t) => {
  const { c, tap, begin } = await tapped(t);
  let calls = 0;
  tap.onTold = (message) => {
    message.cancels.push(...message.assigns.map(({ ref }) => create(CancelTaskSchema, { ref: ref! })));
    return message;
  };
  await begin({ activities: { counts: () => ++calls } });
  const job = await start(t, c, "counts");
  await soon("it is reported", () => tap.reports.length > 0);
  assert.deepEqual([tap.reports[0]!.outcome.case, calls], ["cancelled", 0]);
  await soon("it has ended", async () => (await job.describe()).state === JobState.CANCELLED);
});
