"""Moving driven runs, as their engine says."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from stepwell_server import errors
from stepwell_server.engine.change import Change
from stepwell_server.engine.driven import (
    Moved,
    details_of,
    driven,
    end,
    go_on,
    held,
    moved,
    set_details,
    suspend,
    woken,
)
from stepwell_server.engine.driven_steps import name_of
from stepwell_server.engine.removing import take_out
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.driven import Cause
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.runs import MOVES, TERMINAL, Phase, RunRef
from stepwell_server.model.steps import Kind

_EVERY_OPEN_STEP = Missing(open_steps=True)


class SetRunPhase(msgspec.Struct, frozen=True, gc=False):
    """Moves a run by the table of legal moves."""

    ref: RunRef
    phase: int
    payload: Payload
    failure: Failure | None
    token: int

    def wants(self) -> Missing | None:
        return _EVERY_OPEN_STEP if self.phase in TERMINAL else None

    def decide(self, change: Change) -> Moved:
        run, phase = held(change, self.token), Phase(self.phase)
        if phase == run.phase:
            return moved(change, done=False)
        set_phase(change, phase, self.payload, self.failure)
        return moved(change, done=True)


def set_phase(change: Change, phase: Phase, payload: Payload, failure: Failure | None) -> None:
    """Moves the run to another phase. Refuses with RUN_PHASE_CONFLICT."""
    run = change.open
    if phase not in MOVES[Phase(run.phase)]:
        raise errors.RunPhaseConflict(run_id=run.run_id, phase=Phase(run.phase).name, wanted=phase.name)
    if phase in TERMINAL:
        end(change, phase, payload, failure, failure.message if failure is not None else "")
    elif phase == Phase.SUSPENDED:
        suspend(change, details_of(change).active_step, None, NULL)
    else:
        _resume(change, NULL)


class MarkRunRunning(msgspec.Struct, frozen=True, gc=False):
    """Notes that a run is at work on a step."""

    ref: RunRef
    step_name: str
    token: int

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: Change) -> Moved:
        was = held(change, self.token).phase
        go_on(change, active_step=self.step_name or details_of(change).active_step)
        change.update(update_time=change.now)
        return moved(change, done=was != Phase.RUNNING)


class MarkRunCompleted(msgspec.Struct, frozen=True, gc=False):
    """Ends a run well."""

    ref: RunRef
    payload: Payload
    token: int

    def wants(self) -> Missing:
        return _EVERY_OPEN_STEP

    def decide(self, change: Change) -> Moved:
        held(change, self.token)
        end(change, Phase.COMPLETED, self.payload)
        return moved(change, done=True)


class MarkRunFailed(msgspec.Struct, frozen=True, gc=False):
    """Records a failure, and ends the run if that is its last."""

    ref: RunRef
    failure: Failure
    terminal: bool
    token: int

    def wants(self) -> Missing | None:
        return _EVERY_OPEN_STEP if self.terminal else None

    def decide(self, change: Change) -> Moved:
        held(change, self.token)
        if self.terminal:
            end(change, Phase.FAILED, failure=self.failure)
        else:
            event = change.event(EventType.RUN_ATTEMPT_FAILED, failure=self.failure)
            set_details(change, failure_event=event)
        return moved(change, done=True)


class ResumeRunWith(msgspec.Struct, frozen=True, gc=False):
    """Lets a run go on with data. Whoever found it due does this, so that no token is needed."""

    ref: RunRef
    data: Payload
    token: int

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: Change) -> Moved:
        was = (held(change, self.token) if self.token else driven(change)).phase
        _resume(change, self.data)
        return moved(change, done=was == Phase.SUSPENDED)


def _resume(change: Change, data: Payload) -> None:
    """What was handed out as due was woken by time, and anything else by the caller."""
    by_time = change.open.phase == Phase.SUSPENDED and details_of(change).wake_cause == Cause.TIME
    event = change.event(EventType.RUN_RESUMED, payload=data)
    wake = {} if by_time else woken(change, Cause.CALLER)
    go_on(change, suspension_event=event if data is not NULL else 0, **wake)


class SuspendRun(msgspec.Struct, frozen=True, gc=False):
    """Suspends a run until a time."""

    ref: RunRef
    step_name: str
    until: datetime
    data: Payload
    token: int

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: Change) -> Moved:
        held(change, self.token)
        suspend(change, self.step_name, self.until, self.data)
        return moved(change, done=True)


class CancelDrivenRun(msgspec.Struct, frozen=True, gc=False):
    """Cancels a run at once, whoever holds it."""

    ref: RunRef
    reason: str

    def wants(self) -> Missing:
        return _EVERY_OPEN_STEP

    def decide(self, change: Change) -> Moved:
        if change.run is None:
            return moved(change, done=False)
        driven(change)
        end(change, Phase.CANCELLED, reason=self.reason)
        return moved(change, done=True)


class Rewound(msgspec.Struct, frozen=True, gc=False):
    """The answer to a rewind: how many steps were taken out; 0 if there is no such step."""

    removed: int


class RewindToStep(msgspec.Struct, frozen=True, gc=False):
    """Takes a step and all that was recorded after it out of the record."""

    ref: RunRef
    step_name: str
    token: int

    def wants(self) -> Missing:
        return Missing(open_steps=True, closed_steps=True)

    def decide(self, change: Change) -> Rewound:
        held(change, self.token)
        name = name_of(self.step_name)[0]
        recorded = change.every_step()
        # Timers and activities have names of their own, which a step may have too.
        named = (step.ordinal for step in recorded if step.name == name and step.kind == Kind.LOCAL)
        first = min(named, default=0)
        if not first:
            return Rewound(0)
        after = [step for step in recorded if step.ordinal >= first]
        take_out(change, after, "rewound")
        change.event(EventType.RUN_REWOUND, facts={"step": self.step_name, "removed": str(len(after))})
        suspend(change, self.step_name, None, NULL)
        set_details(change, failure_event=0)
        return Rewound(len(after))


class DueRun(msgspec.Struct, frozen=True, gc=False):
    """A suspended run whose time has come, handed out until `expire_time`."""

    run_id: UUID
    workflow_id: str
    type: str
    task_queue: str
    step_name: str
    topic: str
    due_time: datetime
    expire_time: datetime


class HandOutRun(msgspec.Struct, frozen=True, gc=False):
    """Hands out a run that is due at a time, or answers None. Until the hand-out is over, it is not due."""

    ref: RunRef
    now: datetime
    seconds: float

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: Change) -> DueRun | None:
        run = change.run
        if run is None or not run.driven or run.phase != Phase.SUSPENDED:
            return None
        details = details_of(change)
        due_time = details.resume_time
        if due_time is None or due_time > self.now:
            return None
        expire_time = self.now + timedelta(seconds=self.seconds)
        set_details(change, **{**woken(change, Cause.TIME), "resume_time": expire_time})
        change.bump()
        topic = details.wait_topic or ""
        return DueRun(
            run.run_id, run.workflow_id, run.type, run.task_queue, details.active_step, topic, due_time, expire_time
        )
