import assert from "node:assert/strict";
import { constants, createServer, type ServerHttp2Session } from "node:http2";
import { test, type TestContext } from "node:test";

import { Code, ConnectError } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";

import { JobService, JobState } from "../src/gen/stepwell/v1/jobs_pb.js";
import { RunService } from "../src/gen/stepwell/v1/runs_pb.js";
import { Client, ClientClosed, type ClientOptions, ServiceError } from "../src/index.js";
import { milliseconds } from "../src/times.js";
import { gate } from "./kit.js";

interface Answers {
  /** What becomes of the calls, by their number from 1. */
  getJob?: (call: number) => void | Promise<void>;
  startRuns?: (call: number) => void;
  /** What is asked of a job's end, of which nothing is told before the time is over. */
  waitJob?: (wait: number) => void;
  /** With what the first call is cut off by the server before it is looked at. */
  reset?: number;
}

/** A client of a service that answers as the test has it. */
async function scripted(
  t: TestContext,
  answers: Answers,
  options: ClientOptions = {},
): Promise<{ c: Client; counts: { calls: number } }> {
  const counts = { calls: 0 };
  const answer = connectNodeAdapter({
    routes: (router) => {
      router.service(JobService, {
        getJob: async () => {
          await answers.getJob?.(counts.calls);
          return { job: { jobId: "it" } };
        },
        waitJob: ({ wait }) => {
          answers.waitJob?.(milliseconds(wait));
          return { ended: true, job: { jobId: "it", state: JobState.COMPLETED } };
        },
      });
      router.service(RunService, {
        batchStartRuns: ({ requests }) => {
          answers.startRuns?.(counts.calls);
          return { results: requests.map(({ runId }) => ({ outcome: { case: "started", value: { runId } } })) };
        },
      });
    },
  });
  const server = createServer((request, response) => {
    counts.calls++;
    if (answers.reset && counts.calls === 1) request.stream.close(answers.reset);
    else answer(request, response);
  });
  const sessions = new Set<ServerHttp2Session>();
  server.on("session", (session) => sessions.add(session));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const at = server.address();
  assert.ok(at && typeof at === "object");
  const c = new Client(`127.0.0.1:${at.port}`, options);
  t.after(() => {
    c.close();
    server.close();
    for (const session of sessions) session.destroy();
  });
  return { c, counts };
}

const canceled = (call: number) => {
  if (call === 1) throw new ConnectError("the server ends", Code.Canceled);
};

test("a call that the server left cancelled is repeated", async (t) => {
  const { c, counts } = await scripted(t, { getJob: canceled });
  assert.equal((await c.job("it").describe()).jobId, "it");
  assert.equal(counts.calls, 2);
});

for (const how of ["NGHTTP2_CANCEL", "NGHTTP2_REFUSED_STREAM"] as const) {
  test(`a call whose stream the server cut off is repeated: ${how}`, async (t) => {
    const { c, counts } = await scripted(t, { reset: constants[how] });
    assert.equal((await c.job("it").describe()).jobId, "it");
    assert.equal(counts.calls, 2);
  });
}

test("a start that the server left cancelled is repeated", async (t) => {
  const { c, counts } = await scripted(t, { startRuns: canceled });
  assert.ok((await c.startRun("any")).id);
  assert.equal(counts.calls, 2);
});

test("a call that its caller ends is not repeated", async (t) => {
  const arrived = gate();
  const never = gate();
  const { c, counts } = await scripted(t, {
    getJob: async () => {
      arrived.open();
      await never.opened;
    },
  });
  const stop = new AbortController();
  const request = { namespace: c.namespace, jobId: "it" };
  const asked = c.invoke(c.jobs.getJob, request, stop.signal);
  await arrived.opened;
  stop.abort(new Error("enough"));
  await assert.rejects(asked, /enough/);
  never.open();
  assert.equal(counts.calls, 1);
});

test("a wait for a job's end outlasts the time of one call", async (t) => {
  const asked: number[] = [];
  const { c } = await scripted(t, { waitJob: (wait) => asked.push(wait) }, { callTimeout: 3000 });
  assert.equal(await c.job("it").result(), null);
  assert.ok(asked[0]! < 3000, String(asked[0]));
});

test("a client that is closed repeats nothing", async (t) => {
  const arrived = gate();
  const never = gate();
  const { c, counts } = await scripted(t, {
    getJob: async () => {
      arrived.open();
      await never.opened;
    },
  });
  const asked = c.job("it").describe();
  await arrived.opened;
  c.close();
  await assert.rejects(asked, ClientClosed);
  await assert.rejects(c.startRun("any"), ClientClosed);
  never.open();
  assert.equal(counts.calls, 1);
});

test("a start that can't be written disturbs no other", async (t) => {
  const { c } = await scripted(t, {});
  const [odd, even] = await Promise.allSettled([c.startRun("any", null, { priority: 2.5 }), c.startRun("any")]);
  assert.deepEqual([odd.status, even.status], ["rejected", "fulfilled"]);
  assert.ok(!(odd.status === "rejected" && odd.reason instanceof ServiceError));
});
