"""Activities: scheduling, completion, failure and retry, timeouts."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import msgspec
from msgspec.structs import replace

from stepwell_server.engine import grants
from stepwell_server.engine.activity_change import ActivityChange
from stepwell_server.engine.retries import delay_after
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import EventType
from stepwell_server.model.jobs import Activity, EndedActivity, JobRef
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.runs import RunRef
from stepwell_server.model.steps import (
    DEFAULT_RETRY,
    NO_TIMEOUTS,
    RetryPolicy,
    StepState,
    Timeouts,
    pack_step_details,
    unpack_step_details,
)

if TYPE_CHECKING:
    from datetime import datetime


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The answer to a report: recorded now, or before."""

    duplicate: bool = False


class CompleteActivity(msgspec.Struct, frozen=True, gc=False):
    """A worker says that its activity is done."""

    ref: RunRef | JobRef
    ordinal: int
    session_id: UUID
    token: int
    payload: Payload

    def wants(self) -> Missing:
        return Missing(ordinals=[self.ordinal])

    def decide(self, change: ActivityChange) -> Outcome:
        step = held_step(change, self.ordinal, self.session_id, self.token, StepState.COMPLETED)
        if isinstance(step, EndedActivity):
            return Outcome(duplicate=True)
        facts = {"attempt": str(step.attempt), "worker": step.owner_id}
        event = change.event(EventType.ACTIVITY_COMPLETED, ordinal=step.ordinal, payload=self.payload, facts=facts)
        change.end_step(step, StepState.COMPLETED, event, payload=self.payload)
        change.wake()
        return Outcome()


class FailActivity(msgspec.Struct, frozen=True, gc=False):
    """A worker says that its attempt failed. The policy decides whether there is another."""

    ref: RunRef | JobRef
    ordinal: int
    session_id: UUID
    token: int
    failure: Failure

    def wants(self) -> Missing:
        return Missing(ordinals=[self.ordinal])

    def decide(self, change: ActivityChange) -> Outcome:
        step = held_step(change, self.ordinal, self.session_id, self.token, StepState.FAILED)
        if isinstance(step, EndedActivity) or _has_failed(step, self.token):
            return Outcome(duplicate=True)
        fail_attempt(change, step, self.failure, reported=True)
        return Outcome()


class CancelledActivity(msgspec.Struct, frozen=True, gc=False):
    """A worker says that it stopped its activity, because it was asked to."""

    ref: RunRef | JobRef
    ordinal: int
    session_id: UUID
    token: int
    payload: Payload

    def wants(self) -> Missing:
        return Missing(ordinals=[self.ordinal])

    def decide(self, change: ActivityChange) -> Outcome:
        step = held_step(change, self.ordinal, self.session_id, self.token, StepState.CANCELLED)
        if isinstance(step, EndedActivity):
            return Outcome(duplicate=True)
        facts = {"attempt": str(step.attempt), "worker": step.owner_id}
        event = change.event(EventType.ACTIVITY_CANCELLED, ordinal=step.ordinal, payload=self.payload, facts=facts)
        change.end_step(step, StepState.CANCELLED, event, payload=self.payload)
        change.wake()
        return Outcome()


def held_step(
    change: ActivityChange, ordinal: int, session_id: UUID, token: int, state: StepState
) -> Activity | EndedActivity:
    """The open activity if that session holds it under that token, or as it went on from this very report.

    That is the ended one if the report ended it, or one that tries again since the report said that it had failed.
    Refuses with LEASE_LOST.
    """
    step = change.step(ordinal)
    if step is None:
        raise change.lost(token, -1)
    if state == StepState.FAILED and _has_failed(step, token):
        return step
    if isinstance(step, EndedActivity):
        if step.grants == token and step.state == state:
            return step
        raise change.lost(token, step.grants)
    if step.session_id != session_id or step.grants != token:
        raise change.lost(token, step.grants)
    return step


def _has_failed(step: Activity | EndedActivity, token: int) -> bool:
    """Whether the worker of that very grant has reported that its attempt failed."""
    return 0 < token == unpack_step_details(step.details).failed_token


def fail_attempt(change: ActivityChange, step: Activity, failure: Failure, *, reported: bool = False) -> None:
    """An attempt failed: the activity tries again later, or fails for good, as it does once history is full.

    One that was asked to stop has stopped. `reported` tells that its own worker said so.
    """
    details = unpack_step_details(step.details)
    facts = {"attempt": str(step.attempt), "worker": step.owner_id}
    delay = delay_after(details.retry or DEFAULT_RETRY, step.attempt, failure)
    limits = details.timeouts or NO_TIMEOUTS
    if delay is not None and limits.schedule_to_close is not None:
        closes = step.schedule_time + timedelta(seconds=limits.schedule_to_close)
        if change.now + timedelta(seconds=delay) >= closes:
            delay = None
    failed_token = step.grants if reported else 0
    if delay is None or step.cancel_requested or not change.has_room:
        if step.cancel_requested and reported:
            step = replace(step, details=pack_step_details(replace(details, failed_token=failed_token)))
        grants.end_without_result(change, step, failure, facts)
        return
    change.event(EventType.ACTIVITY_ATTEMPT_FAILED, ordinal=step.ordinal, failure=failure, facts=facts)
    packed = pack_step_details(replace(details, last_failure=failure, failed_token=failed_token))
    if delay <= 0:
        grants.requeue(change, replace(step, details=packed, returns=0))
        return
    change.put_step(
        replace(
            step,
            state=StepState.PENDING,
            session_id=None,
            owner_id="",
            returns=0,
            details=packed,
            wake_time=change.now + timedelta(seconds=delay),
        )
    )


class NewActivity(msgspec.Struct, frozen=True, gc=False):
    """An activity to schedule."""

    type: str
    task_queue: str = ""
    input: Payload = NULL
    retry: RetryPolicy | None = None
    timeouts: Timeouts | None = None
    priority: int | None = None
    shielded: bool = False


def time_out(change: ActivityChange, step: Activity, last_beat: datetime | None) -> None:
    """Looks at an activity whose time may have run out: fails it or its attempt, sets it going, or waits on."""
    limits = unpack_step_details(step.details).timeouts or NO_TIMEOUTS
    now = change.now
    passed = passed_timeout(step, limits, now, last_beat)
    if passed is None and step.state == StepState.PENDING and (step.wake_time is None or step.wake_time <= now):
        # A first attempt waits outside its queue only if its start was delayed.
        waited = step.attempt > 0 or step.schedule_time > step.create_time
        change.put_step(replace(step, wake_time=None))
        step = replace(step, wake_time=grants.next_timeout(step))
        if waited or step.wake_time is None:
            change.put_step(step)
            change.bump()
            change.enqueue_step(step)
        return
    if passed is None:
        beat = max(step.start_time, last_beat) if last_beat and step.start_time else None
        change.put_step(replace(step, wake_time=grants.next_timeout(step, beat)))
        change.bump()
        return
    if step.session_id is not None:
        change.news.revoke(step.session_id, step.ordinal, step.grants, "TIMED_OUT")
    failure = Failure(f"timeout: {TIMEOUT_NAMES[passed]}", "Timeout", timeout_kind=passed)
    if passed in (SCHEDULE_TO_START, SCHEDULE_TO_CLOSE):
        failure = replace(failure, non_retryable=True)
    fail_attempt(change, step, failure)


class Timed(Protocol):
    """An open activity, decided on or read."""

    @property
    def state(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def schedule_time(self) -> datetime: ...
    @property
    def start_time(self) -> datetime | None: ...


SCHEDULE_TO_START, SCHEDULE_TO_CLOSE, START_TO_CLOSE, HEARTBEAT = 1, 2, 3, 4
TIMEOUT_NAMES = {
    SCHEDULE_TO_START: "schedule-to-start",
    SCHEDULE_TO_CLOSE: "schedule-to-close",
    START_TO_CLOSE: "start-to-close",
    HEARTBEAT: "heartbeat",
}


def passed_timeout(step: Timed, limits: Timeouts, now: datetime, last_beat: datetime | None) -> int | None:
    """Which of the timeouts has passed."""

    def over(since: datetime | None, seconds: float | None) -> bool:
        return since is not None and seconds is not None and now >= since + timedelta(seconds=seconds)

    if over(step.schedule_time, limits.schedule_to_close):
        return SCHEDULE_TO_CLOSE
    if step.state == StepState.PENDING:
        waits = step.attempt == 0 and over(step.schedule_time, limits.schedule_to_start)
        return SCHEDULE_TO_START if waits else None
    if over(step.start_time, limits.start_to_close):
        return START_TO_CLOSE
    if over(max(step.start_time, last_beat) if last_beat and step.start_time else step.start_time, limits.heartbeat):
        return HEARTBEAT
    return None
