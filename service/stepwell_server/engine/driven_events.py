"""Events that callers append, and signals that they take."""

from __future__ import annotations

from uuid import UUID

import msgspec

from stepwell_server import errors
from stepwell_server.engine.change import Change
from stepwell_server.engine.driven import held
from stepwell_server.engine.wishes import Missing
from stepwell_server.ids import pack
from stepwell_server.model.driven import CallerSeq, SideKey
from stepwell_server.model.payloads import Payload
from stepwell_server.model.runs import RunRef
from stepwell_server.model.signals import Signal


class Appended(msgspec.Struct, frozen=True, gc=False):
    """The answer to an appended event."""

    run_id: UUID
    number: int
    event_number: int


class AppendEvent(msgspec.Struct, frozen=True, gc=False):
    """Appends a caller's own event under our next number, and under its own if it counts itself."""

    ref: RunRef
    type: str
    payload: Payload
    caller_seq: int
    token: int

    @property
    def _side(self) -> SideKey:
        return (CallerSeq, self.caller_seq)

    def wants(self) -> Missing | None:
        return Missing(sides=[self._side]) if self.caller_seq else None

    def decide(self, change: Change) -> Appended:
        run = change.open
        if run.driven:
            held(change, self.token)
        if self.caller_seq and change.side(self._side) is not None:
            raise errors.EventSeqExists(run_id=run.run_id, caller_seq=self.caller_seq)
        number = change.caller_event(self.type, self.payload, self.caller_seq)
        if self.caller_seq:
            change.put_side(self._side, CallerSeq(run.run_key, self.caller_seq, number))
        return Appended(run.run_id, number, pack(run.run_key, number))


class ConsumeSignals(msgspec.Struct, frozen=True, gc=False):
    """Takes those signals of the given ordinals that nobody has taken, in the order of their arrival."""

    ref: RunRef
    name: str
    ordinals: frozenset[int]
    token: int

    def wants(self) -> Missing:
        return Missing(signals=[self.name])

    def decide(self, change: Change) -> list[Signal]:
        held(change, self.token)
        pending = change.pending_signals(self.name, max(self.ordinals, default=0))
        taken = [signal for signal in pending if signal.ordinal in self.ordinals]
        for signal in taken:
            change.take_signal(signal)
        if taken:
            change.bump()
        return taken
