/** When to try again. */

import { create } from "@bufbuild/protobuf";

import { type Failure, type RetryPolicy as RetryMessage, RetryPolicySchema } from "./gen/stepwell/v1/types_pb.js";
import { durationOf, type Milliseconds } from "./times.js";

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

/** The delay after an attempt, counted from 1. */
export function delayAfter(policy: RetryPolicy, attempt: number): Milliseconds {
  const first = policy.initialInterval ?? 1000;
  return Math.min(first * (policy.backoffCoefficient ?? 2) ** (attempt - 1), policy.maximumInterval ?? 100 * first);
}

/** Whether there is no attempt after this one. */
export function isFinal(policy: RetryPolicy, failure: Failure, attempt: number): boolean {
  return attempt >= (policy.maximumAttempts || Infinity) || failure.nonRetryable || (policy.nonRetryableTypes ?? []).includes(failure.type);
}
