"""Policies that a program gives along with its runs and activities, and how the protocol spells them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Literal

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from stepwell.v1 import concurrency_pb2, debounces_pb2, jobs_pb2, runs_pb2, types_pb2

REUSE = {
    "allow": runs_pb2.WORKFLOW_ID_REUSE_POLICY_ALLOW,
    "allow_if_failed": runs_pb2.WORKFLOW_ID_REUSE_POLICY_ALLOW_IF_FAILED,
    "reject": runs_pb2.WORKFLOW_ID_REUSE_POLICY_REJECT,
}
CONFLICT = {
    "fail": runs_pb2.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
    "use_existing": runs_pb2.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
    "terminate_existing": runs_pb2.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING,
}
JOB_REUSE = {
    "allow": jobs_pb2.JOB_REUSE_POLICY_ALLOW,
    "allow_if_failed": jobs_pb2.JOB_REUSE_POLICY_ALLOW_IF_FAILED,
    "reject": jobs_pb2.JOB_REUSE_POLICY_REJECT,
}
JOB_CONFLICT = {
    "fail": jobs_pb2.JOB_CONFLICT_POLICY_FAIL,
    "use_existing": jobs_pb2.JOB_CONFLICT_POLICY_USE_EXISTING,
}
STRATEGY = {
    "queue": concurrency_pb2.CONCURRENCY_STRATEGY_QUEUE,
    "cancel_in_progress": concurrency_pb2.CONCURRENCY_STRATEGY_CANCEL_IN_PROGRESS,
    "cancel_newest": concurrency_pb2.CONCURRENCY_STRATEGY_CANCEL_NEWEST,
    "round_robin": concurrency_pb2.CONCURRENCY_STRATEGY_ROUND_ROBIN,
}
PARENT_CLOSE = {
    "terminate": types_pb2.PARENT_CLOSE_POLICY_TERMINATE,
    "cancel": types_pb2.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
    "abandon": types_pb2.PARENT_CLOSE_POLICY_ABANDON,
}
Seconds = float | dt.timedelta
Strategy = Literal["queue", "cancel_in_progress", "cancel_newest", "round_robin"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When and how often to try again: an activity, a job, a checkpoint, or a run as a whole.

    The delay before attempt n+1 is `initial_interval * backoff_coefficient ** (n - 1)`, at most `maximum_interval`
    (default: 100 times `initial_interval`); in seconds. `maximum_attempts` counts the first one; 0 is no limit.
    `non_retryable` holds exception classes, or their names, that end all attempts at once; subclasses are not meant.
    """

    initial_interval: float = 1.0
    backoff_coefficient: float = 2.0
    maximum_interval: float | None = None
    maximum_attempts: int = 0
    non_retryable: tuple[type[BaseException] | str, ...] = ()

    @property
    def non_retryable_types(self) -> tuple[str, ...]:
        """The names of the exceptions that end all attempts."""
        return tuple(kind if isinstance(kind, str) else kind.__name__ for kind in self.non_retryable)

    def delay_after(self, attempt: int) -> float:
        """Gives the seconds between this attempt, counted from 1, and the next."""
        limit = 100 * self.initial_interval if self.maximum_interval is None else self.maximum_interval
        return min(limit, self.initial_interval * self.backoff_coefficient ** min(attempt - 1, 64))

    def to_proto(self) -> types_pb2.RetryPolicy:
        """Spells the policy."""
        return types_pb2.RetryPolicy(
            initial_interval=duration(self.initial_interval),
            backoff_coefficient=self.backoff_coefficient,
            maximum_interval=duration(self.maximum_interval),
            maximum_attempts=self.maximum_attempts,
            non_retryable_types=self.non_retryable_types,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CancellationPolicy:
    """Limits after which the service cancels a run, in seconds: of the run in all, and of one suspension."""

    maximum_run_duration: Seconds | None = None
    maximum_suspend_duration: Seconds | None = None

    def to_proto(self) -> types_pb2.CancellationPolicy:
        """Spells the policy."""
        return types_pb2.CancellationPolicy(
            maximum_run_duration=duration(self.maximum_run_duration),
            maximum_suspend_duration=duration(self.maximum_suspend_duration),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """How many runs of a key may be at work at once, and what becomes of one for which there is no slot.

    `key` is what is limited, such as a customer's id: 1 to 512 bytes. `maximum_runs`: 1 to 10,000. `strategy`: `queue`
    lets the new run wait in the order of arrival; `cancel_in_progress` asks the oldest runs of the key to cancel, for
    whose end it waits; `cancel_newest` ends the new run CANCELLED; with `round_robin` the slots are those of all keys
    of the name, and keys get them in turn. Keys of different limits, by `name`, have nothing to do with each other.
    """

    key: str
    maximum_runs: int = 1
    strategy: Strategy = "queue"
    name: str = "default"

    def to_proto(self) -> concurrency_pb2.Concurrency:
        """Spells the limit."""
        return concurrency_pb2.Concurrency(
            name=self.name, key=self.key, maximum_runs=self.maximum_runs, strategy=STRATEGY[self.strategy]
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Debounce:
    """Makes one run of starts of a type and a key that come in quick succession: it begins when none comes any more.

    `key`: 1 to 512 bytes. `period`: for how many seconds no start must come. `maximum_delay`: the run begins at the
    latest so many seconds after its first start, default no limit. The run has the input of the last start.
    """

    key: str
    period: Seconds
    maximum_delay: Seconds | None = None

    def to_proto(self) -> debounces_pb2.Debounce:
        """Spells it."""
        return debounces_pb2.Debounce(
            key=self.key, period=duration(self.period), maximum_delay=duration(self.maximum_delay)
        )


def timestamp(time: dt.datetime | None) -> Timestamp | None:
    """Spells a time; `None` stays absent. Raises `ValueError` for a time without a zone."""
    if time is None:
        return None
    if time.tzinfo is None:
        raise ValueError(f"{time} has no time zone: say datetime.UTC, or which")
    spelt = Timestamp()
    spelt.FromDatetime(time)
    return spelt


def duration(value: Seconds | None) -> Duration | None:
    """Spells a length of time; `None` stays absent."""
    if value is None:
        return None
    if isinstance(value, dt.timedelta):
        microseconds = value // dt.timedelta(microseconds=1)
        nanos = microseconds * 1000
    else:
        nanos = round(value * 1_000_000_000)
    if nanos < 0:
        raise ValueError(f"a length of time cannot be negative: {value}")
    return Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)
