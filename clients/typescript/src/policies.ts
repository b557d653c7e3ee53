/** When to try again. */

import { create } from "@bufbuild/protobuf";

import { type Failure, type RetryPolicy as RetryMessage, RetryPolicySchema } from "./gen/stepwell/v1/types_pb.js";
import { durationOf, milliseconds, type Milliseconds } from "./times.js";

/** The delay before attempt n+1 is min(maximumInterval, initialInterval * backoffCoefficient^(n-1)). */
export interface RetryPolicy {
  /** Delay before the second attempt. Default: 1,000. */
  initialInterval?: Milliseconds;
  /** Factor from one delay to the next. Default: 2. */
  backoffCoefficient?: number;
  /** The longest delay. Default: 100 times the initial one. */
  maximumInterval?: Milliseconds;
  /** Attempts in all. Default: no limit; 1: no retry. */
  maximumAttempts?: number;
  /** Kinds of failure that are final. */
  nonRetryableTypes?: readonly string[];
}

/** How a run or a job is started. */
export interface Start {
  /** Makes a repeat of the start safe, also by another process. Default: one of this start's own. */
  requestId?: string;
  /** Default: "default". */
  taskQueue?: string;
  /** 0 to 9; higher goes first. Default: 4. */
  priority?: number;
  /** Not to begin before. Default: 0. */
  startDelay?: Milliseconds;
}

/** How long an activity or a job may take. Time spans are in milliseconds; without one there is no limit. */
export interface Timeouts {
  /** The longest wait for its first attempt. */
  scheduleToStart?: Milliseconds;
  /** The longest time for all attempts together. */
  scheduleToClose?: Milliseconds;
  /** The longest time for one attempt. */
  startToClose?: Milliseconds;
  /** The longest time between heartbeats. */
  heartbeatTimeout?: Milliseconds;
}

/** Spells a policy. */
export function spellRetry(policy: RetryPolicy | undefined): RetryMessage | undefined {
  if (!policy) return undefined;
  const { initialInterval, maximumInterval, nonRetryableTypes = [], ...plain } = policy;
  return create(RetryPolicySchema, {
    ...plain,
    nonRetryableTypes: [...nonRetryableTypes],
    initialInterval: durationOf(initialInterval),
    maximumInterval: durationOf(maximumInterval),
  });
}

/** Spells the timeouts among other options. */
export function spellTimeouts(options: Timeouts) {
  return {
    scheduleToStartTimeout: durationOf(options.scheduleToStart),
    scheduleToCloseTimeout: durationOf(options.scheduleToClose),
    startToCloseTimeout: durationOf(options.startToClose),
    heartbeatTimeout: durationOf(options.heartbeatTimeout),
  };
}

/** The delay after a failed attempt, counted from 1; undefined if there is no attempt after it. */
export function delayAfter(policy: RetryPolicy, failure: Failure, attempt: number): Milliseconds | undefined {
  const { initialInterval = 1000, backoffCoefficient = 2, maximumInterval = 100 * initialInterval } = policy;
  const isLast = attempt >= (policy.maximumAttempts || Infinity);
  if (isLast || failure.nonRetryable || policy.nonRetryableTypes?.includes(failure.type)) return undefined;
  if (failure.nextRetryDelay) return milliseconds(failure.nextRetryDelay);
  return Math.min(initialInterval * backoffCoefficient ** (attempt - 1), maximumInterval);
}
