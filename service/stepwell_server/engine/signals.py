"""Signals: kept until the run waits for them, taken in the order of their arrival."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from stepwell_server import errors
from stepwell_server.engine import endings
from stepwell_server.engine.change import Change
from stepwell_server.engine.wishes import Missing
from stepwell_server.ids import pack
from stepwell_server.model.events import SIGNAL_NAME, SIGNAL_ORDINAL, EventType
from stepwell_server.model.payloads import Payload
from stepwell_server.model.runs import RunRef
from stepwell_server.model.signals import Signal
from stepwell_server.model.steps import StepState


class Signalled(msgspec.Struct, frozen=True, gc=False):
    """The answer to a signal."""

    run_id: UUID
    number: int
    recorded: bool


class SignalRun(msgspec.Struct, frozen=True, gc=False):
    """Sends a signal. The oldest step that waits for it gets it; else it is kept. A terminal run refuses it."""

    ref: RunRef
    name: str
    payload: Payload
    signal_id: str | None = None

    def wants(self) -> Missing:
        ids = [self.signal_id] if self.signal_id is not None else []
        return Missing(waits=[self.name], signal_ids=ids)

    def decide(self, change: Change) -> Signalled:
        # A repeat is recognised first: the signal may be what ended the run.
        if self.signal_id is not None:
            known = change.signal_with_id(self.signal_id)
            if known is not None:
                return Signalled(change.run_id, pack(known.run_key, known.ordinal), recorded=False)
        run = change.run
        if run is None:
            raise errors.SignalRefused(run_id=change.run_id, signal=self.name, phase=change.phase.name)
        ordinal = deliver(change, self.name, self.payload, self.signal_id)
        return Signalled(run.run_id, pack(run.run_key, ordinal), recorded=True)


def deliver(
    change: Change, name: str, payload: Payload, signal_id: str | None = None, now: datetime | None = None
) -> int:
    """Records a signal of an open run, and gives it to the oldest step that waits for it. Answers its ordinal."""
    run = change.open
    ordinal = run.last_signal + 1
    step = change.waiting_for(name, now)
    event = change.event(
        EventType.SIGNAL_RECEIVED,
        ordinal=step.ordinal if step is not None else 0,
        payload=payload,
        facts={SIGNAL_NAME: name, SIGNAL_ORDINAL: str(ordinal)},
    )
    signal = Signal(run.run_key, ordinal, name, event, signal_id, step is not None, change.now, change.chain_key)
    if step is None:
        change.add_signal(signal)
    else:
        change.note_taken_signal(signal)
        change.end_step(step, StepState.COMPLETED, event, payload=payload)
        endings.wake(change)
    return ordinal
