"""Giving tasks to sessions, and taking them back.

A grant raises the fencing token of the run, the activity or the job; every write by a holder carries it, and a stale
one is refused. A task that comes back undone returns to its queue.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine import endings, runs
from stepwell_server.engine.activity_change import ActivityChange
from stepwell_server.engine.change import Change
from stepwell_server.engine.job_change import JobChange
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import EventType
from stepwell_server.model.jobs import JOB_ORDINAL, Activity, JobRef
from stepwell_server.model.payloads import Failure
from stepwell_server.model.runs import WORKER_LOST, Phase, RunRef, input_event_of
from stepwell_server.model.steps import NO_TIMEOUTS, StepState, unpack_step_details
from stepwell_server.model.tasks import AnyGrant, Grant

if TYPE_CHECKING:
    from stepwell_server.model.runs import Run

ATTEMPT_LOST = "WorkerLost"


class GrantTask(msgspec.Struct, frozen=True, gc=False):
    """Gives a waiting task to a session. Answers the grant, or None if the task is not to be had any more.

    A run that is pinned is not to be had by a session that takes other `builds`.
    """

    ref: RunRef | JobRef
    ordinal: int
    session_id: UUID
    owner_id: str
    builds: tuple[str, ...] = ()
    ready_time: datetime | None = None

    def wants(self) -> Missing | None:
        return Missing(ordinals=[self.ordinal]) if self.ordinal else None

    def decide(self, change: Change | JobChange) -> AnyGrant | None:
        if not change.is_open:
            return None
        if isinstance(change, JobChange) or self.ordinal:
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
        version=run.version + 1,
    )
    payload = change.input_at_hand(input_event_of(change.open.details))
    grant = Grant(session_id, change.open, None, payload, fresh=fresh, ready_time=ready_time)
    change.news.give(grant)
    return grant


def grant_step(
    change: ActivityChange, ordinal: int, session_id: UUID, owner_id: str, ready_time: datetime | None = None
) -> AnyGrant | None:
    """Gives an activity's task to a session: a new attempt begins."""
    step = change.step(ordinal)
    if not isinstance(step, Activity) or step.state != StepState.PENDING or step.session_id is not None:
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
    wake_time = next_timeout(granted)
    if wake_time != granted.wake_time:
        granted = replace(granted, wake_time=wake_time)
    change.put_step(granted)
    change.bump()
    return change.give(granted, session_id, ready_time)


def next_timeout(step: Activity, last_beat: datetime | None = None) -> datetime | None:
    """When an activity must be looked at next: the earliest of its timeouts that can still run out."""
    details = unpack_step_details(step.details)
    limits = details.timeouts or NO_TIMEOUTS
    times: list[datetime] = []
    if limits.schedule_to_close is not None:
        times.append(step.schedule_time + timedelta(seconds=limits.schedule_to_close))
    if step.state == StepState.PENDING:
        if limits.schedule_to_start is not None and step.attempt == 0:
            times.append(step.schedule_time + timedelta(seconds=limits.schedule_to_start))
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

    ref: RunRef | JobRef
    ordinal: int
    token: int
    session_id: UUID
    counts: bool
    reason: str

    def wants(self) -> Missing | None:
        return Missing(ordinals=[self.ordinal]) if self.ordinal else None

    def decide(self, change: Change | JobChange) -> bool:
        if not change.is_open:
            return False
        if isinstance(change, JobChange) or self.ordinal:
            return self._return_step(change)
        return self._return_run(change)

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

    def _return_step(self, change: ActivityChange) -> bool:
        step = change.step(self.ordinal)
        if not isinstance(step, Activity) or step.session_id != self.session_id or step.grants != self.token:
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


def return_of(grant: AnyGrant, reason: str) -> ReturnTask:
    """Takes back what was just given, and was not begun."""
    key, ordinal = grant.key
    ref = ref_to(key, ordinal, grant.origin.namespace_id)
    return ReturnTask(ref, ordinal, grant.token, grant.session_id, counts=False, reason=reason)


def ref_to(key: int, ordinal: int, namespace_id: int, namespace: str = "") -> RunRef | JobRef:
    """Names the run, or the job, that a task is of."""
    if ordinal == JOB_ORDINAL:
        return JobRef(namespace_id, namespace, key)
    return RunRef(namespace_id, namespace, key)


def interrupt(change: ActivityChange, step: Activity, reason: str) -> None:
    """An activity's attempt was begun and its worker is lost: another attempt, if there is one left."""
    if change.has_room:
        facts = {"worker": step.owner_id, "attempt": str(step.attempt), "reason": reason}
        change.event(EventType.ACTIVITY_INTERRUPTED, ordinal=step.ordinal, facts=facts)
    failure = Failure(f"worker {step.owner_id} was lost: {reason}", ATTEMPT_LOST)
    policy = unpack_step_details(step.details).retry
    if policy is not None and policy.maximum_attempts and step.attempt >= policy.maximum_attempts:
        end_without_result(change, step, failure)
        return
    requeue(change, replace(step, returns=0), failure)


def requeue(change: ActivityChange, step: Activity, failure: Failure | None = None) -> None:
    """Puts an activity back into its queue, ready now. One that was asked to stop ends instead, with that failure."""
    if step.cancel_requested:
        end_without_result(change, step, failure)
        return
    waiting = replace(step, state=StepState.PENDING, session_id=None, owner_id="")
    change.put_step(replace(waiting, wake_time=next_timeout(waiting)))
    change.bump()
    change.enqueue_step(step)


def end_without_result(
    change: ActivityChange, step: Activity, failure: Failure | None, facts: dict[str, str] | None = None
) -> None:
    """Ends an activity that will not be tried again: it has failed, or was stopped if it was asked to."""
    state, kind = StepState.FAILED, EventType.ACTIVITY_FAILED
    if step.cancel_requested:
        state, kind = StepState.CANCELLED, EventType.ACTIVITY_CANCELLED
    event = change.event(kind, ordinal=step.ordinal, failure=failure, facts=facts)
    change.end_step(step, state, event, failure=failure)
    change.wake()


def held_run(change: Change, session_id: UUID, token: int) -> Run:
    """The open run, if that session holds it under that token. Refuses with LEASE_LOST."""
    run = change.run
    if run is None or run.session_id != session_id or run.grants != token:
        current = run.grants if run is not None else -1
        raise errors.LeaseLost(run_id=change.run_id, token=token, current=current)
    return run
