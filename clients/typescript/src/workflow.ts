/** What a workflow's function does everything through that must not be lost. */

import { create } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";

import { StepError, WaitTimeout } from "./errors.js";
import type { Body, Call, Code } from "./code.js";
import type { Execution } from "./execution.js";
import { FailureSchema, StepKind, StepState } from "./gen/stepwell/v1/types_pb.js";
import { ContinueAsNewSchema, type StepRecord } from "./gen/stepwell/v1/workers_pb.js";
import { ContinueAsNew } from "./outgoing.js";
import { jsonPayload } from "./payloads.js";
import { type RetryPolicy, spellRetry, spellTimeouts, type Timeouts } from "./policies.js";
import type { Scope } from "./scopes.js";
import { durationOf, type Milliseconds } from "./times.js";

const PATCH_KEY = "patch";
type Awaitable = { case: "signalName" | "topic"; value: string };

/** How a call names its step. */
export interface StepOptions {
  /** The step's own name. Default: what is called. */
  name?: string;
  /** A key in place of the count among the calls of that name. */
  key?: string;
}

/** How a step that is a function is called. */
export interface CheckpointOptions {
  /** A key in place of the count among the calls of that name. */
  key?: string;
  /** When to call the function again that failed. Default: never. */
  retry?: RetryPolicy;
}

/** How an activity is performed. */
export interface ActivityOptions extends StepOptions, Timeouts {
  /** Default: the run's. */
  taskQueue?: string;
  /** When to try again. Default: without limit, from 1 s, doubling, up to 100 s. */
  retry?: RetryPolicy;
  /** 0 to 9; higher goes first. Default: the run's. */
  priority?: number;
  /** When the run is asked to cancel: ask the activity to stop, and wait for its own end first. */
  waitCancelled?: boolean;
}

/** How a child is started. */
export interface ChildOptions extends StepOptions {
  /** Default: the run's. */
  taskQueue?: string;
  /** The caller's name for the child: unique among the namespace's open runs. */
  workflowId?: string;
  /** How long it may take. Default: no limit. */
  runTimeout?: Milliseconds;
  /** Begins it anew when its code fails. Default: never. */
  retry?: RetryPolicy;
}

/** How a call waits. */
export interface WaitOptions extends StepOptions {
  /** Throws WaitTimeout after so long. Default: never. */
  timeout?: Milliseconds;
}

/**
 * Belongs to one branch of one run, and is of no use outside of the function that it is given to. A branch makes one call
 * at a time: `all` and `map` give each branch a context of its own. Calls throw `RunCancelled` once in each branch after
 * somebody asked the run to cancel.
 */
export class WorkflowContext {
  constructor(
    private readonly run: Execution,
    private readonly code: Code,
    private readonly scope: Scope,
  ) {}

  /** The run's own id, a UUID. */
  get runId(): string {
    return this.run.task.runId;
  }

  /** The caller's name for the run. */
  get workflowId(): string {
    return this.run.task.workflowId;
  }

  /** Which attempt of the run's retry policy this is, from 1. */
  get attempt(): number {
    return this.run.task.runAttempt;
  }

  /** When the run was started. */
  get startTime(): Date {
    return this.run.task.runCreateTime ? timestampDate(this.run.task.runCreateTime) : new Date(0);
  }

  /**
   * Calls a function and has its result recorded before the code goes on: a checkpoint. It is not called again once that
   * is done; if the worker is lost before, it is. What it fails with is recorded as well, and thrown as a StepError.
   */
  async step<T>(name: string, call: (signal: AbortSignal) => T | Promise<T>, options: CheckpointOptions = {}): Promise<T> {
    const { converter } = this.run;
    const step = { kind: StepKind.LOCAL, name, key: options.key ?? "" };
    const body = await this.code.checkpoint(this.scope, step, options.retry, async (signal) =>
      converter.toPayload(await call(signal)),
    );
    if (body.failure) throw new StepError(name, body.failure);
    // Also a fresh result is read from its payload: what the code sees must not depend on when it sees it.
    return converter.fromPayload(body.result) as T;
  }

  /** Has an activity performed by any worker of its queue. Throws StepError if it failed for good. */
  async activity<T>(type: string, input?: unknown, options: ActivityOptions = {}): Promise<T> {
    const { taskQueue, priority, retry } = options;
    const { shielded } = this.scope;
    const spell = (): Body => {
      const payload = this.run.converter.toPayload(input);
      const plain = { type, taskQueue, input: payload, priority, shielded };
      return { case: "activity", value: { ...plain, retry: spellRetry(retry), ...spellTimeouts(options) } };
    };
    return this.ended<T>(StepKind.ACTIVITY, type, options, spell, options.waitCancelled);
  }

  /** Starts another run and waits for its end. Throws StepError if it did not end well. */
  async child<T>(type: string, input?: unknown, options: ChildOptions = {}): Promise<T> {
    const { taskQueue, workflowId, retry, runTimeout } = options;
    const spell = (): Body => {
      const payload = this.run.converter.toPayload(input);
      const value = { type, taskQueue, workflowId, input: payload, retry: spellRetry(retry), runTimeout: durationOf(runTimeout) };
      return { case: "child", value };
    };
    return this.ended<T>(StepKind.CHILD, type, options, spell);
  }

  /** Waits durably: the time goes on while no worker has the run. */
  async sleep(span: Milliseconds, options: StepOptions = {}): Promise<void> {
    await this.ended(StepKind.TIMER, "sleep", options, () => ({ case: "timer", value: { duration: durationOf(span) } }));
  }

  /** Waits for a signal, and gives what it carries: of those that came before, the oldest that nobody took. */
  async waitSignal<T>(signal: string, options: WaitOptions = {}): Promise<T> {
    return this.waited<T>(signal, { case: "signalName", value: signal }, options);
  }

  /** Waits for an event of a topic, and gives what it carries. */
  async waitTopic<T>(topic: string, options: WaitOptions = {}): Promise<T> {
    return this.waited<T>(`topic ${topic}`, { case: "topic", value: topic }, options);
  }

  /**
   * Does several things at once, each in a branch with a context of its own, and gives their results in order. Waits for
   * all of them, also when one has failed, so that what it comes to does not depend on which was faster.
   */
  async all<T extends readonly ((ctx: WorkflowContext) => Promise<unknown>)[]>(
    ...branches: T
  ): Promise<{ -readonly [K in keyof T]: Awaited<ReturnType<T[K]>> }> {
    const { length } = branches;
    const results = await this.code.together(this.scope, length, length, false, (place, ctx) => branches[place]!(ctx));
    return results as { -readonly [K in keyof T]: Awaited<ReturnType<T[K]>> };
  }

  /** Does one thing for each item, each in a branch of its own, at most `limit` at a time (default: all). */
  async map<I, T>(
    items: readonly I[],
    call: (ctx: WorkflowContext, item: I) => Promise<T>,
    options: { limit?: number } = {},
  ): Promise<T[]> {
    const limit = options.limit ?? items.length;
    if (items.length && !(limit >= 1)) throw new RangeError("limit must be at least 1");
    return this.code.together(this.scope, items.length, limit, false, (place, ctx) => call(ctx, items[place]!));
  }

  /** Does something, in a branch of its own, that a request to cancel the run leaves alone. */
  async shield<T>(call: (ctx: WorkflowContext) => Promise<T>): Promise<T> {
    const [result] = await this.code.together(this.scope, 1, 1, true, (_, ctx) => call(ctx));
    return result as T;
  }

  /** Calls a quick function once, and answers its value from the record ever after: a random number, the time. */
  sideEffect<T>(name: string, call: () => T): T {
    const { converter } = this.run;
    const step = { kind: StepKind.MARKER, name, key: "" };
    const known = this.code.recall(this.scope, step);
    if (known) return converter.fromPayload(known.result) as T;
    const value = converter.toPayload(call());
    this.code.addStep(this.scope, step, { case: "marker", value: { value } });
    return converter.fromPayload(value) as T;
  }

  /**
   * Tells new code from old: true if the run, in this branch, has not come to this place before the code was changed. It
   * is decided once for each branch.
   */
  patched(name: string): boolean {
    const { scope, code } = this;
    const decided = scope.patches.get(name);
    if (decided !== undefined) return decided;
    const step = { kind: StepKind.MARKER, name, key: PATCH_KEY };
    const isKnown = code.record.steps.has(scope.keyFor(step));
    const isNew = isKnown || scope.count >= scope.recorded.length;
    if (isKnown) code.recall(scope, step);
    else if (isNew) code.addStep(scope, step, { case: "marker", value: { value: jsonPayload("true") } });
    scope.patches.set(name, isNew);
    return isNew;
  }

  /**
   * Lets a function answer those who ask the run by that name while a worker has it in memory. It looks and changes
   * nothing, answers at once, and makes no calls of a context.
   */
  handleQuery<I, T>(name: string, answer: (input: I) => T): void {
    this.run.queries.functions.set(name, answer);
  }

  /** Keeps a value for those who ask while no worker has the run. At most 16 names a run, of at most 64 KiB each. */
  publish(name: string, value: unknown): void {
    this.run.queries.publish(name, value);
  }

  /** Ends the run so that another one, of the same workflow id, goes on with the work. Throws, and never returns. */
  continueAsNew(input?: unknown): never {
    throw new ContinueAsNew(create(ContinueAsNewSchema, { input: this.run.converter.toPayload(input) }));
  }

  private waited<T>(name: string, awaited: Awaitable, options: WaitOptions): Promise<T> {
    const spell = (): Body => ({ case: "wait", value: { awaited, timeout: durationOf(options.timeout) } });
    return this.ended<T>(StepKind.WAIT, name, options, spell);
  }

  private async ended<T>(kind: StepKind, name: string, options: StepOptions, spell: () => Body, patient = false): Promise<T> {
    const call: Call = { kind, name: options.name ?? name, key: options.key ?? "", spell, patient };
    return read(this.run, await this.code.await(this.scope, call)) as T;
  }
}

/** Reads what a step came to. */
function read(run: Execution, record: StepRecord): unknown {
  if (record.state === StepState.SKIPPED) return null;
  if (record.state !== StepState.COMPLETED) {
    throw new StepError(record.name, record.failure ?? create(FailureSchema, { message: "it was cancelled", type: "Cancelled" }));
  }
  if (record.timedOut) throw new WaitTimeout(record.name);
  return record.kind === StepKind.TIMER ? undefined : run.converter.fromPayload(record.result);
}
