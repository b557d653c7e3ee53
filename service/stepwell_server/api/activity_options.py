"""How an activity is to be performed, from the protocol's words: alike for a run's activities and for jobs.

Retry policies are those of runs, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.v1 import types_pb2
from stepwell_server.api import fields as checks
from stepwell_server.api.payloads import duration_to_proto
from stepwell_server.errors import InvalidField
from stepwell_server.model.steps import NO_TIMEOUTS, RetryPolicy, Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.v1 import jobs_pb2, runs_pb2, workers_pb2
    from stepwell_server.api.fields import Fields

    Told = workers_pb2.ActivityStep | jobs_pb2.StartJobRequest
    Begun = runs_pb2.StartRunRequest | workers_pb2.ChildStep

_MOST_ATTEMPTS = 1_000_000
_HIGHEST_PRIORITY = 9
_MOST_COEFFICIENT = 1_000.0
_DEFAULT_INTERVALS = 100
_TIMEOUTS = (
    "schedule_to_start_timeout",
    "schedule_to_close_timeout",
    "start_to_close_timeout",
    "heartbeat_timeout",
)


def timeouts_from_proto(told: Told, at: str) -> Timeouts | None:
    """The four timeouts; None if none is set."""
    has: Callable[[Any], bool] = told.HasField
    if not any(map(has, _TIMEOUTS)):
        return None
    limits = Timeouts(*(checks.seconds(told, field, at) for field in _TIMEOUTS))
    return limits if limits != NO_TIMEOUTS else None


def priority_from_proto(told: Told, at: str) -> int | None:
    """The priority; None if none is named."""
    if not told.HasField("priority"):
        return None
    return checks.integer(told.priority, "priority", at, at_most=_HIGHEST_PRIORITY)


def retry_from_proto(policy: types_pb2.RetryPolicy, fields: Fields, at: str) -> RetryPolicy:
    """A retry policy, with its defaults."""
    initial = checks.seconds(policy, "initial_interval", at)
    initial = 1.0 if initial is None else initial
    coefficient = policy.backoff_coefficient or 2.0
    if not 1.0 <= coefficient <= _MOST_COEFFICIENT:
        raise InvalidField(field=f"{at}backoff_coefficient", problem="must be 1 to 1000")
    maximum = checks.seconds(policy, "maximum_interval", at)
    return RetryPolicy(
        initial_seconds=initial,
        coefficient=coefficient,
        maximum_seconds=initial * _DEFAULT_INTERVALS if maximum is None else maximum,
        maximum_attempts=checks.integer(policy.maximum_attempts, "maximum_attempts", at, at_most=_MOST_ATTEMPTS),
        non_retryable_types=fields.names(policy.non_retryable_types, "non_retryable_types", at),
    )


def run_retry_from_proto(told: Begun, fields: Fields, at: str) -> RetryPolicy | None:
    """The retry policy of a run; None if it has none: unlike an activity's, a run's first failure is then its end."""
    return retry_from_proto(told.retry, fields, f"{at}retry.") if told.HasField("retry") else None


def retry_to_proto(policy: RetryPolicy | None) -> types_pb2.RetryPolicy | None:
    """Renders a retry policy."""
    if policy is None:
        return None
    return types_pb2.RetryPolicy(
        initial_interval=duration_to_proto(policy.initial_seconds),
        backoff_coefficient=policy.coefficient,
        maximum_interval=duration_to_proto(policy.maximum_seconds),
        maximum_attempts=policy.maximum_attempts,
        non_retryable_types=policy.non_retryable_types,
    )
