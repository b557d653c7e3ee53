"""Activities of driven runs: created, retried, ended and cancelled as their engine says.

Whoever knows an activity's number may report on it while it is RUNNING; one who gives the claim's token is held to it.
`attempt` counts claims, so that it is 0 while the first attempt waits.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine import endings, grants
from stepwell_server.engine.activities import NewActivity
from stepwell_server.engine.change import Change
from stepwell_server.engine.driven import driven, held
from stepwell_server.engine.driven_steps import new_step
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import Failure, Payload
from stepwell_server.model.runs import RunRef
from stepwell_server.model.steps import (
    ClosedStep,
    Kind,
    Step,
    StepDetails,
    StepState,
    pack_step_details,
    unpack_step_details,
)

if TYPE_CHECKING:
    from stepwell_server.engine.wishes import Identity

_NAME = "activity"


class ActivityAnswer(msgspec.Struct, frozen=True, gc=False):
    """An activity as it is now, and whether the call made it so."""

    run_id: UUID
    workflow_id: str
    step: Step | ClosedStep
    done: bool


def activity_identity(seq: int) -> Identity:
    """What makes the step of an activity unique in its run: no step that is named has such a key."""
    return ("", _NAME, 0, str(seq))


class CreateActivity(msgspec.Struct, frozen=True, gc=False):
    """Creates an activity, or finds the one of that number. `running` creates one that somebody is at already."""

    ref: RunRef
    seq: int
    activity: NewActivity
    attempt: int
    schedule_time: datetime | None
    running: bool
    token: int

    def wants(self) -> Missing:
        return Missing(identities=[activity_identity(self.seq)])

    def decide(self, change: Change) -> ActivityAnswer:
        run, new = held(change, self.token), self.activity
        found = change.step_named(activity_identity(self.seq))
        if found is not None:
            return ActivityAnswer(run.run_id, run.workflow_id, found, done=False)
        schedule_time = self.schedule_time or change.now
        facts = {"seq": str(self.seq), "type": new.type}
        event = change.event(EventType.ACTIVITY_SCHEDULED, ordinal=run.last_step + 1, payload=new.input, facts=facts)
        details = StepDetails(retry=new.retry, timeouts=new.timeouts, ready_time=schedule_time)
        step = replace(
            new_step(change, activity_identity(self.seq), event),
            kind=Kind.ACTIVITY,
            type=new.type,
            task_queue=new.task_queue,
            seq=self.seq,
            attempt=self.attempt - 1,
            details=pack_step_details(details),
        )
        if self.running:
            step = replace(step, state=StepState.RUNNING, attempt=self.attempt, start_time=change.now)
            step = replace(step, wake_time=grants.next_timeout(step))
        change.add_step(step)
        if not self.running:
            change.enqueue_step(step, schedule_time)
        return ActivityAnswer(run.run_id, run.workflow_id, step, done=True)


class EndActivity(msgspec.Struct, frozen=True, gc=False):
    """Completes a RUNNING activity, or with a failure fails it. Repeated under the same token, it is as it was."""

    ref: RunRef
    ordinal: int
    payload: Payload
    failure: Failure | None
    token: int

    def wants(self) -> Missing:
        return Missing(ordinals=[self.ordinal])

    def decide(self, change: Change) -> ActivityAnswer:
        step = _activity(change, self.ordinal)
        state = StepState.FAILED if self.failure is not None else StepState.COMPLETED
        if isinstance(step, ClosedStep):
            if self.token and self.token == step.grants and step.state == state:
                return _answer(change, step, done=False)
            raise _conflict(step)
        _hold(change, step, self.token)
        if step.state != StepState.RUNNING:
            raise _conflict(step)
        event = change.event(
            EventType.ACTIVITY_FAILED if self.failure is not None else EventType.ACTIVITY_COMPLETED,
            ordinal=step.ordinal,
            payload=self.payload,
            failure=self.failure,
            facts={"attempt": str(step.attempt), "worker": step.owner_id},
        )
        ended = change.end_step(step, state, event, payload=self.payload, failure=self.failure)
        return _answer(change, ended, done=True)


class RequeueActivity(msgspec.Struct, frozen=True, gc=False):
    """Puts a PENDING, RUNNING or FAILED activity into its queue for another attempt, to be had from a time on."""

    ref: RunRef
    ordinal: int
    attempt: int
    schedule_time: datetime | None
    token: int

    def wants(self) -> Missing:
        return Missing(ordinals=[self.ordinal])

    def decide(self, change: Change) -> ActivityAnswer:
        step = _activity(change, self.ordinal)
        driven(change)
        _hold(change, step, self.token)
        if isinstance(step, ClosedStep):
            if step.state != StepState.FAILED:
                raise _conflict(step)
            step = change.reopen_step(step)
        elif step.state == StepState.PENDING:
            change.drop_task(step.ordinal)
        schedule_time = self.schedule_time or change.now
        facts = {"attempt": str(self.attempt), "schedule_time": schedule_time.isoformat()}
        change.event(EventType.ACTIVITY_REQUEUED, ordinal=step.ordinal, facts=facts)
        details = replace(unpack_step_details(step.details), ready_time=schedule_time, last_failure=None)
        waiting = replace(
            step,
            state=StepState.PENDING,
            attempt=self.attempt - 1,
            owner_id="",
            start_time=None,
            wake_time=None,
            cancel_requested=False,
            details=pack_step_details(details),
        )
        change.put_step(waiting)
        change.enqueue_step(waiting, schedule_time)
        return _answer(change, waiting, done=True)


class CancelActivities(msgspec.Struct, frozen=True, gc=False):
    """Cancels a run's activities that wait, and asks those at work to stop. Answers how many were cancelled."""

    ref: RunRef
    token: int

    def wants(self) -> Missing:
        return Missing(open_steps=True)

    def decide(self, change: Change) -> int:
        held(change, self.token)
        cancelled = 0
        for step in change.every_open_step():
            if step.kind != Kind.ACTIVITY:
                continue
            if step.state == StepState.PENDING:
                endings.cancel_step(change, step, "cancelled")
                cancelled += 1
            elif not step.cancel_requested:
                change.put_step(replace(step, cancel_requested=True))
                change.bump()
        return cancelled


def _activity(change: Change, ordinal: int) -> Step | ClosedStep:
    run, step = change.run or change.closed_run, change.step(ordinal)
    if step is None or step.kind != Kind.ACTIVITY:
        raise errors.StepNotFound(run_id=change.run_id, step=str(ordinal))
    if run is not None and not run.driven:
        raise errors.RunNotDriven(run_id=run.run_id)
    return step


def _hold(change: Change, step: Step | ClosedStep, token: int) -> None:
    """Refuses with LEASE_LOST who claimed it once, and not last."""
    if token and token != step.grants:
        raise errors.LeaseLost(run_id=change.run_id, token=token, current=step.grants)


def _conflict(step: Step | ClosedStep) -> errors.StepStateConflict:
    return errors.StepStateConflict(step=f"{step.type} {step.key}", state=StepState(step.state).name)


def _answer(change: Change, step: Step | ClosedStep, *, done: bool) -> ActivityAnswer:
    run = change.run or change.closed_run
    if run is None:
        raise AssertionError("a change has an open or a closed run")
    return ActivityAnswer(run.run_id, run.workflow_id, step, done)
