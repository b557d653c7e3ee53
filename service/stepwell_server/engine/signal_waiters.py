"""Steps of driven runs that wait for signals: each has a wait of its name beside it, which ends with the delivery."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine import endings
from stepwell_server.engine.change import Change
from stepwell_server.engine.driven import driven, held
from stepwell_server.engine.driven_steps import StepAnswer, new_step
from stepwell_server.engine.signals import deliver
from stepwell_server.engine.step_holders import with_details
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import Payload
from stepwell_server.model.runs import RunRef
from stepwell_server.model.steps import ClosedStep, Kind, Step, StepState, is_on_topic

if TYPE_CHECKING:
    from stepwell_server.engine.wishes import Identity

_NAME, _MARK = "signal", "="


class Outcome(IntEnum):
    """What became of a signal; the proto's `DeliverSignalResponse.Outcome`."""

    DELIVERED = 1
    KEPT = 2
    ALREADY_DELIVERED = 3
    EXPIRED = 4
    NOT_FOUND = 5


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """The answer to a delivery."""

    outcome: Outcome
    step_name: str = ""
    time: datetime | None = None


def waiter_identity(step_name: str) -> Identity:
    """What makes the wait of that step unique in its run: no step that is named has such a key."""
    return ("", _NAME, 0, f"{_MARK}{step_name}")


def waiter_of(step: Step | ClosedStep) -> str:
    """The name of the step whose wait this is, or nothing if it is none."""
    is_waiter = step.kind == Kind.WAIT and step.name == _NAME and step.key.startswith(_MARK)
    return step.key.removeprefix(_MARK) if is_waiter else ""


class RegisterWaiter(msgspec.Struct, frozen=True, gc=False):
    """Has a step wait for a signal; one that was kept is delivered at once."""

    ref: RunRef
    step_name: str
    signal: str
    expire_time: datetime | None
    token: int

    def wants(self) -> Missing:
        return Missing(identities=[waiter_identity(self.step_name)], signals=[self.signal])

    def decide(self, change: Change) -> StepAnswer:
        held(change, self.token)
        found = change.step_named(waiter_identity(self.step_name))
        if isinstance(found, ClosedStep):
            if found.state != StepState.CANCELLED:
                return StepAnswer(found, done=False)
            change.remove_step(found)
            found = None
        ordinal = found.ordinal if found is not None else change.open.last_step + 1
        change.event(EventType.WAIT_STARTED, ordinal=ordinal, facts={"signal": self.signal, "step": self.step_name})
        waiting = self._waiting(change, found)
        pending = change.pending_signals(self.signal)
        if not pending:
            return StepAnswer(waiting, done=True)
        change.take_signal(pending[0])
        event = change.event(EventType.WAIT_COMPLETED, ordinal=ordinal, facts={"signal_event": str(pending[0].event)})
        taken = replace(waiting, input_event=pending[0].event)
        return StepAnswer(change.end_step(taken, StepState.COMPLETED, event, payload=None), done=True)

    def _waiting(self, change: Change, found: Step | None) -> Step:
        step = found if found is not None else new_step(change, waiter_identity(self.step_name), 0)
        step = with_details(step, expire_time=self.expire_time)
        step = replace(step, kind=Kind.WAIT, state=StepState.WAITING, wait_name=self.signal)
        if found is None:
            change.add_step(step)
        else:
            change.replace_steps([(found, step)])
        return step


class DeliverSignal(msgspec.Struct, frozen=True, gc=False):
    """Delivers a signal to the step that has waited longest for it, or keeps it for the first that will."""

    ref: RunRef
    signal: str
    payload: Payload
    only_waiting: bool
    now: datetime | None

    def wants(self) -> Missing:
        return Missing(waits=[self.signal])

    def decide(self, change: Change) -> Delivery:
        if change.run is None:
            raise errors.SignalRefused(run_id=change.run_id, signal=self.signal, phase=change.phase.name)
        driven(change)
        step = change.waiting_for(self.signal, self.now)
        if step is None:
            known = self._known(change)
            if known is not None:
                return known
            if self.only_waiting:
                return Delivery(Outcome.NOT_FOUND)
        deliver(change, self.signal, self.payload, now=self.now)
        if step is None:
            return Delivery(Outcome.KEPT)
        return Delivery(Outcome.DELIVERED, waiter_of(step), change.now)

    def _known(self, change: Change) -> Delivery | None:
        """What the steps say that have waited for it, if any has."""
        named = [step for step in change.every_step() if step.kind == Kind.WAIT and step.wait_name == self.signal]
        waiters = [step for step in named if not is_on_topic(step)]
        for step in waiters:
            if isinstance(step, Step):
                return Delivery(Outcome.EXPIRED, waiter_of(step))
        for step in waiters:
            if isinstance(step, ClosedStep) and step.state == StepState.COMPLETED:
                return Delivery(Outcome.ALREADY_DELIVERED, waiter_of(step), step.end_time)
        return None


class RemoveWaiter(msgspec.Struct, frozen=True, gc=False):
    """Forgets a step's wait. Answers False if there is none."""

    ref: RunRef
    step_name: str
    token: int

    def wants(self) -> Missing:
        return Missing(identities=[waiter_identity(self.step_name)])

    def decide(self, change: Change) -> bool:
        if change.run is None:
            return False
        held(change, self.token)
        step = change.step_named(waiter_identity(self.step_name))
        if isinstance(step, Step):
            endings.cancel_step(change, step, "removed")
            step = change.step_named(waiter_identity(self.step_name))
        if not isinstance(step, ClosedStep):
            return False
        change.remove_step(step)
        change.bump()
        return True
