"""Giving tasks to sessions, and taking them back.

A grant raises the fencing token of the run or the activity; every write by a holder carries it, and a stale one is
refused. A task that comes back undone returns to its queue.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine import endings, runs
from stepwell_server.engine.change import Change
from stepwell_server.engine.run_change import HIGHEST_PRIORITY
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import EventType, payload_of, unpack_attributes
from stepwell_server.model.payloads import Failure, Payload
from stepwell_server.model.runs import WORKER_LOST, Phase, RunRef
from stepwell_server.model.steps import NO_TIMEOUTS, Step, StepState, unpack_step_details
from stepwell_server.model.tasks import Grant, TaskKind

if TYPE_CHECKING:
    from stepwell_server.model.runs import Run

ATTEMPT_LOST = "WorkerLost"


class GrantTask(msgspec.Struct, frozen=True, gc=False):
    """Gives a waiting task to a session. Answers the grant, or None if the task is not to be had any more.

    A run that is pinned is not to be had by a session that takes other `builds`.
    """

    ref: RunRef
    ordinal: int
    session_id: UUID
    owner_id: str
    builds: tuple[str, ...] = ()
    ready_time: datetime | None = None

    def wants(self) -> Missing | None:
        return Missing(ordinals=[self.ordinal]) if self.ordinal else None

    def decide(self, change: Change) -> Grant | None:
        if change.run is None:
            return None
        if self.ordinal:
            return grant_step(change, self.ordinal, self.session_id, self.owner_id, self.ready_time)
        return grant_run(change, self.session_id, self.owner_id, self.builds, self.ready_time)


def grant_run(
    change: Change,
    session_id: UUID,
    owner_id: str,
    builds: tuple[str, ...] = (),
    ready_time: datetime | None = None,
) -> Grant | None:
    """Gives the run's task to a session."""
    run = change.open
    if run.session_id is not None or run.pause_reason is not None:
        return None
    if run.build_id and run.build_id not in builds:
        return None
    change.drop_task(0)
    fresh = run.last_step == 0
    change.update(
        session_id=session_id,
        owner_id=owner_id,
        grants=run.grants + 1,
        queued=False,
        dirty=False,
        phase=Phase.RUNNING,
        suspend_time=None,
    )
    change.bump()
    payload = _input_at_hand(change, 1)
    return _told(change, Grant(session_id, change.open, None, payload, fresh=fresh, ready_time=ready_time))


def grant_step(
    change: Change, ordinal: int, session_id: UUID, owner_id: str, ready_time: datetime | None = None
) -> Grant | None:
    """Gives an activity's task to a session: a new attempt begins."""
    step = change.step(ordinal)
    if not isinstance(step, Step) or step.state != StepState.PENDING or step.session_id is not None:
        return None
    change.drop_task(ordinal)
    granted = replace(
        step,
        state=StepState.RUNNING,
        session_id=session_id,
        owner_id=owner_id,
        grants=step.grants + 1,
        attempt=step.attempt + 1,
        start_time=change.now,
    )
    granted = replace(granted, wake_time=next_timeout(granted))
    change.put_step(granted)
    change.bump()
    payload = _input_at_hand(change, step.input_event)
    return _told(change, Grant(session_id, change.open, granted, payload, ready_time=ready_time))


def _told(change: Change, grant: Grant) -> Grant:
    change.news.grants.append(grant)
    change.news.claims.append(grant)
    return grant


def _input_at_hand(change: Change, number: int) -> Payload | None:
    """The input, if the event that holds it was appended in this batch."""
    for event in change.events:
        if event.number == number:
            return payload_of(event.payload_kind, event.payload, unpack_attributes(event.attributes))
    return None


def next_timeout(step: Step, last_beat: datetime | None = None) -> datetime | None:
    """When an activity must be looked at next: the earliest of its timeouts that can still run out."""
    details = unpack_step_details(step.details)
    limits = details.timeouts or NO_TIMEOUTS
    times: list[datetime] = []
    if limits.schedule_to_close is not None:
        times.append(step.create_time + timedelta(seconds=limits.schedule_to_close))
    if step.state == StepState.PENDING:
        if limits.schedule_to_start is not None and step.attempt == 0:
            times.append(step.create_time + timedelta(seconds=limits.schedule_to_start))
    elif step.start_time is not None:
        if limits.start_to_close is not None:
            times.append(step.start_time + timedelta(seconds=limits.start_to_close))
        if limits.heartbeat is not None:
            times.append((last_beat or step.start_time) + timedelta(seconds=limits.heartbeat))
    return min(times, default=None)


class ReturnTask(msgspec.Struct, frozen=True, gc=False):
    """Takes a task back from a session that does not do it: unacknowledged, released, or because the session ended.

    `counts` tells that an attempt was begun and is spent. A run that comes back too often with nothing recorded in
    between is paused: it may be what kills its workers. Answers False if the session no longer held it.
    """

    ref: RunRef
    ordinal: int
    token: int
    session_id: UUID
    counts: bool
    reason: str

    def wants(self) -> Missing | None:
        return Missing(ordinals=[self.ordinal]) if self.ordinal else None

    def decide(self, change: Change) -> bool:
        if change.run is None:
            return False
        return self._return_step(change) if self.ordinal else self._return_run(change)

    def _return_run(self, change: Change) -> bool:
        run = change.open
        if run.session_id != self.session_id or run.grants != self.token:
            return False
        if change.has_room:
            kind = EventType.RUN_INTERRUPTED if self.counts else EventType.RUN_RETURNED
            change.event(kind, facts={"worker": run.owner_id, "reason": self.reason})
        returns = run.returns + 1
        change.update(session_id=None, owner_id="", returns=returns)
        change.bump()
        if returns >= change.limits.returns:
            last = f"the last time from worker {run.owner_id}: {self.reason}"
            runs.pause(change, WORKER_LOST, f"it came back {returns} times in a row with nothing recorded, {last}")
        else:
            endings.enqueue_run(change)
        return True

    def _return_step(self, change: Change) -> bool:
        step = change.step(self.ordinal)
        if not isinstance(step, Step) or step.session_id != self.session_id or step.grants != self.token:
            return False
        if not self.counts and step.returns + 1 < change.limits.returns:
            if change.has_room:
                facts = {"worker": step.owner_id, "reason": self.reason}
                change.event(EventType.ACTIVITY_RETURNED, ordinal=step.ordinal, facts=facts)
            attempt = step.attempt - 1
            requeue(change, replace(step, returns=step.returns + 1, attempt=attempt))
            return True
        interrupt(change, step, self.reason)
        return True


def interrupt(change: Change, step: Step, reason: str) -> None:
    """An activity's attempt was begun and its worker is lost: another attempt, if there is one left."""
    if change.has_room:
        facts = {"worker": step.owner_id, "attempt": str(step.attempt), "reason": reason}
        change.event(EventType.ACTIVITY_INTERRUPTED, ordinal=step.ordinal, facts=facts)
    failure = Failure(f"worker {step.owner_id} was lost: {reason}", ATTEMPT_LOST)
    policy = unpack_step_details(step.details).retry
    if policy is not None and policy.maximum_attempts and step.attempt >= policy.maximum_attempts:
        event = change.event(EventType.ACTIVITY_FAILED, ordinal=step.ordinal, failure=failure)
        change.end_step(step, StepState.FAILED, event, failure=failure)
        endings.wake(change)
        return
    requeue(change, replace(step, returns=0))


def requeue(change: Change, step: Step) -> None:
    """Puts an activity back into its queue, ready now."""
    waiting = replace(step, state=StepState.PENDING, session_id=None, owner_id="")
    change.put_step(replace(waiting, wake_time=next_timeout(waiting)))
    change.bump()
    enqueue_activity(change, step)


def enqueue_activity(change: Change, step: Step, ready_time: datetime | None = None) -> None:
    """Puts an activity's task into its queue. A driven run's are claimed apart from all others, whatever their type."""
    if change.open.driven:
        kind, type_name, priority = TaskKind.DRIVEN_ACTIVITY, "", HIGHEST_PRIORITY
    else:
        kind, type_name, priority = TaskKind.ACTIVITY, step.type, step.priority
    change.enqueue(step.ordinal, kind, step.task_queue, type_name, priority, ready_time)


def held_run(change: Change, session_id: UUID, token: int) -> Run:
    """The open run, if that session holds it under that token. Refuses with LEASE_LOST."""
    run = change.run
    if run is None or run.session_id != session_id or run.grants != token:
        current = run.grants if run is not None else -1
        raise errors.LeaseLost(run_id=change.run_id, token=token, current=current)
    return run
