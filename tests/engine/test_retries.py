"""When an activity tries again: the documented arithmetic, whatever the numbers."""

from __future__ import annotations

import pytest

from stepwell_server.engine.retries import delay_after
from stepwell_server.model.payloads import Failure
from stepwell_server.model.steps import DEFAULT_RETRY, RetryPolicy

FAILED = Failure("no", "Broken")


@pytest.mark.parametrize(
    ("policy", "attempt", "failure", "delay"),
    [
        (DEFAULT_RETRY, 1, FAILED, 1.0),
        (DEFAULT_RETRY, 2, FAILED, 2.0),
        (DEFAULT_RETRY, 7, FAILED, 64.0),
        (DEFAULT_RETRY, 8, FAILED, 100.0),
        (DEFAULT_RETRY, 10**6, FAILED, 100.0),
        (RetryPolicy(coefficient=1.0), 50, FAILED, 1.0),
        (RetryPolicy(initial_seconds=0.5, coefficient=3.0, maximum_seconds=2.0), 2, FAILED, 1.5),
        (RetryPolicy(initial_seconds=0.5, coefficient=3.0, maximum_seconds=2.0), 3, FAILED, 2.0),
        (RetryPolicy(initial_seconds=0.0), 100, FAILED, 0.0),
        (RetryPolicy(initial_seconds=500.0), 1, FAILED, 100.0),
        (RetryPolicy(maximum_attempts=3), 2, FAILED, 2.0),
        (RetryPolicy(maximum_attempts=3), 3, FAILED, None),
        (RetryPolicy(maximum_attempts=3), 4, FAILED, None),
        (RetryPolicy(maximum_attempts=1), 1, FAILED, None),
        (RetryPolicy(non_retryable_types=("Broken",)), 1, FAILED, None),
        (RetryPolicy(non_retryable_types=("Other",)), 1, FAILED, 1.0),
        (DEFAULT_RETRY, 1, Failure("no", non_retryable=True), None),
        (DEFAULT_RETRY, 5, Failure("no", next_retry_seconds=7.0), 7.0),
        (DEFAULT_RETRY, 5, Failure("no", next_retry_seconds=0.0), 0.0),
        (DEFAULT_RETRY, 5, Failure("no", next_retry_seconds=700.0), 700.0),
        (RetryPolicy(maximum_attempts=2), 2, Failure("no", next_retry_seconds=7.0), None),
        (DEFAULT_RETRY, 1, Failure("no", next_retry_seconds=7.0, non_retryable=True), None),
    ],
)
def test_the_delay_after_an_attempt(policy: RetryPolicy, attempt: int, failure: Failure, delay: float | None) -> None:
    """min(maximum, initial * coefficient^(attempt-1)); no delay is no further attempt; the worker's own choice once."""
    assert delay_after(policy, attempt, failure) == delay


@pytest.mark.parametrize("coefficient", [1e5, 1e100, 1e308])
@pytest.mark.parametrize("initial", [0.0, 1.0, 1e300])
def test_growth_beyond_all_numbers_is_the_maximum(coefficient: float, initial: float) -> None:
    """A policy that grows faster than numbers go still answers, at most the maximum."""
    policy = RetryPolicy(initial_seconds=initial, coefficient=coefficient, maximum_seconds=60.0)
    assert delay_after(policy, 65, FAILED) == (60.0 if initial else 0.0)
