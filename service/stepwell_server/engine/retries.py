"""When to try again. Pure arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell_server.model.payloads import Failure
    from stepwell_server.model.steps import RetryPolicy

_LARGEST_EXPONENT = 64


def delay_after(policy: RetryPolicy, attempt: int, failure: Failure) -> float | None:
    """Seconds before the attempt that follows `attempt` (from 1), or None if there is none.

    min(maximum, initial * coefficient^(attempt-1)), as the proto's RetryPolicy says; the failing worker's own choice
    of delay replaces it once.
    """
    if failure.non_retryable or failure.type in policy.non_retryable_types:
        return None
    if policy.maximum_attempts and attempt >= policy.maximum_attempts:
        return None
    if failure.next_retry_seconds is not None:
        return failure.next_retry_seconds
    if not policy.initial_seconds:
        return 0.0
    try:
        grown = policy.initial_seconds * policy.coefficient ** min(attempt - 1, _LARGEST_EXPONENT)
    except OverflowError:
        return policy.maximum_seconds
    return min(policy.maximum_seconds, grown)
