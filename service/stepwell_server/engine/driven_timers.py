"""Timers of driven runs, which fire when their engine asks; those of managed runs also by themselves."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from msgspec.structs import replace

from stepwell_server.engine import endings
from stepwell_server.engine.change import Change
from stepwell_server.engine.driven import held
from stepwell_server.engine.driven_steps import new_step
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import EventType
from stepwell_server.model.runs import RunRef
from stepwell_server.model.steps import ClosedStep, Kind, Step, StepDetails, StepState, pack_step_details

if TYPE_CHECKING:
    from stepwell_server.engine.wishes import Identity

_NAME = "timer"


class TimerAnswer(msgspec.Struct, frozen=True, gc=False):
    """A timer as it is now, and whether the call made it so."""

    run_id: UUID
    workflow_id: str
    step: Step | ClosedStep
    done: bool


def timer_identity(seq: int) -> Identity:
    """What makes the step of a timer unique in its run: no step that is named has such a key."""
    return ("", _NAME, 0, str(seq))


class CreateTimer(msgspec.Struct, frozen=True, gc=False):
    """Creates a timer, or finds the one of that number."""

    ref: RunRef
    seq: int
    fire_time: datetime
    token: int

    def wants(self) -> Missing:
        return Missing(identities=[timer_identity(self.seq)])

    def decide(self, change: Change) -> TimerAnswer:
        run = held(change, self.token)
        found = change.step_named(timer_identity(self.seq))
        if found is not None:
            return TimerAnswer(run.run_id, run.workflow_id, found, done=False)
        facts = {"seq": str(self.seq), "fire_time": self.fire_time.isoformat()}
        event = change.event(EventType.TIMER_STARTED, ordinal=run.last_step + 1, facts=facts)
        step = replace(
            new_step(change, timer_identity(self.seq), event),
            kind=Kind.TIMER,
            seq=self.seq,
            state=StepState.WAITING,
            wake_time=self.fire_time,
            details=pack_step_details(StepDetails(ready_time=self.fire_time)),
        )
        change.add_step(step)
        return TimerAnswer(run.run_id, run.workflow_id, step, done=True)


class FireTimer(msgspec.Struct, frozen=True, gc=False):
    """Fires a timer that is due at a time, or answers None."""

    ref: RunRef
    ordinal: int
    now: datetime

    def wants(self) -> Missing:
        return Missing(ordinals=[self.ordinal])

    def decide(self, change: Change) -> TimerAnswer | None:
        run = change.run
        if run is None or not run.driven:
            return None
        step = change.step(self.ordinal)
        if not isinstance(step, Step) or step.kind != Kind.TIMER:
            return None
        if step.wake_time is None or step.wake_time > self.now:
            return None
        event = change.event(EventType.TIMER_FIRED, ordinal=step.ordinal, facts={"seq": str(step.seq)})
        fired = change.end_step(step, StepState.COMPLETED, event)
        return TimerAnswer(run.run_id, run.workflow_id, fired, done=True)


class CancelTimers(msgspec.Struct, frozen=True, gc=False):
    """Cancels a run's timers that have not fired. Answers how many."""

    ref: RunRef
    token: int

    def wants(self) -> Missing:
        return Missing(open_steps=True)

    def decide(self, change: Change) -> int:
        held(change, self.token)
        timers = [step for step in change.every_open_step() if step.kind == Kind.TIMER]
        for step in timers:
            endings.cancel_step(change, step, "cancelled")
        return len(timers)
