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

/** Spells a policy. */
export function spellRetry(policy: RetryPolicy): RetryMessage {
  const initialInterval = durationOf(policy.initialInterval);
  const maximumInterval = durationOf(policy.maximumInterval);
  return create(RetryPolicySchema, {
    backoffCoefficient: policy.backoffCoefficient ?? 0,
    maximumAttempts: policy.maximumAttempts ?? 0,
    nonRetryableTypes: [...(policy.nonRetryableTypes ?? [])],
    ...(initialInterval && { initialInterval }),
    ...(maximumInterval && { maximumInterval }),
  });
}

/** The delay after an attempt, counted from 1. */
export function delayAfter(policy: RetryPolicy, attempt: number): Milliseconds {
  const first = policy.initialInterval ?? 1000;
  return Math.min(first * (policy.backoffCoefficient ?? 2) ** (attempt - 1), policy.maximumInterval ?? 100 * first);
}

/** Whether there is no attempt after this one. */
export function isFinal(policy: RetryPolicy, failure: Failure, attempt: number): boolean {
  const isLast = policy.maximumAttempts !== undefined && policy.maximumAttempts > 0 && attempt >= policy.maximumAttempts;
  return isLast || failure.nonRetryable || (policy.nonRetryableTypes ?? []).includes(failure.type);
}
