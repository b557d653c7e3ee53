"""Settling an open step of a code run by hand: it is completed, failed, skipped or tried again, whoever is at it."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine import endings, grants
from stepwell_server.engine.change import Change
from stepwell_server.engine.mending import StepName
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.runs import RunRef
from stepwell_server.model.steps import ClosedStep, Kind, Step, StepState

SETTLED = "SETTLED"
"""Why a worker loses an activity that was settled."""
_EVENTS = {
    StepState.COMPLETED: EventType.STEP_COMPLETED,
    StepState.FAILED: EventType.STEP_FAILED,
    StepState.SKIPPED: EventType.STEP_SKIPPED,
}


class Settled(msgspec.Struct, frozen=True, gc=False):
    """The answer: how the step is now, and whether the call made it so."""

    accepted: bool
    ordinal: int
    state: int


class EndStep(msgspec.Struct, frozen=True, gc=False):
    """Ends an open step: COMPLETED with a payload, FAILED with a failure, or SKIPPED. Its child goes on by itself."""

    ref: RunRef
    step: StepName
    state: StepState
    reason: str
    payload: Payload = NULL
    failure: Failure | None = None

    def wants(self) -> Missing | None:
        return _wants(self.step)

    def decide(self, change: Change) -> Settled:
        step = _open_step(change, self.step)
        if self.state == StepState.FAILED and step.kind == Kind.TIMER:
            raise errors.StepStateConflict(step=str(self.step), state="a timer")
        change.need_room()
        fenced = _taken(change, step)
        if fenced is step:
            # Nor is it what the last one who was at it says later, who may say so and go on with it.
            fenced = replace(step, grants=step.grants + 1)
        payload = self.payload if self.failure is None else NULL
        event = change.event(
            _EVENTS[self.state], ordinal=step.ordinal, payload=payload, failure=self.failure, facts=_facts(self.reason)
        )
        change.end_step(fenced, self.state, event, payload=payload, failure=self.failure)
        endings.wake(change)
        return Settled(accepted=True, ordinal=step.ordinal, state=self.state)


class RetryStepNow(msgspec.Struct, frozen=True, gc=False):
    """Has an open activity tried again at once: it does not wait any longer, and whoever is at it loses it."""

    ref: RunRef
    step: StepName
    reason: str

    def wants(self) -> Missing | None:
        return _wants(self.step)

    def decide(self, change: Change) -> Settled:
        step = _open_step(change, self.step)
        if step.kind != Kind.ACTIVITY or step.cancel_requested:
            state = "asked to stop" if step.cancel_requested else f"a {Kind(step.kind).name.lower()}"
            raise errors.StepStateConflict(step=str(self.step), state=state)
        # One that is delayed wakes before anything else is to happen to it.
        if step.state == StepState.PENDING and step.wake_time == grants.next_timeout(step):
            return Settled(accepted=False, ordinal=step.ordinal, state=step.state)
        change.need_room()
        fenced = _taken(change, step)
        change.event(EventType.ACTIVITY_REQUEUED, ordinal=step.ordinal, facts=_facts(self.reason))
        grants.requeue(change, replace(fenced, returns=0))
        return Settled(accepted=True, ordinal=step.ordinal, state=StepState.PENDING)


def _wants(name: StepName) -> Missing:
    if name.ordinal:
        return Missing(ordinals=[name.ordinal])
    return Missing(identities=[(name.scope, name.name, name.occurrence, name.key)])


def _open_step(change: Change, name: StepName) -> Step:
    run = change.open
    if run.driven:
        raise errors.RunDriven(run_id=run.run_id)
    identity = (name.scope, name.name, name.occurrence, name.key)
    step = change.step(name.ordinal) if name.ordinal else change.step_named(identity)
    if step is None:
        raise errors.StepNotFound(run_id=run.run_id, step=str(name))
    if isinstance(step, ClosedStep):
        raise errors.StepStateConflict(step=str(name), state=StepState(step.state).name)
    return step


def _taken(change: Change, step: Step) -> Step:
    """The step without whoever is at it: what that reports too late is of another grant."""
    if step.session_id is None:
        return step
    change.news.revoke(step.session_id, step.ordinal, step.grants, SETTLED)
    return replace(step, grants=step.grants + 1)


def _facts(reason: str) -> dict[str, str]:
    return {"settled": "by hand", "reason": reason} if reason else {"settled": "by hand"}
