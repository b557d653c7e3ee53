"""Events that callers append, and signals that they take."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
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
    time: datetime | None = None


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """A caller's own event, with its own number if it counts itself."""

    type: str
    payload: Payload
    caller_seq: int = 0
    attributes: dict[str, str] | None = None


class AppendEvent(msgspec.Struct, frozen=True, gc=False):
    """Appends a caller's own event under our next number, and under its own if it counts itself."""

    ref: RunRef
    type: str
    payload: Payload
    caller_seq: int
    token: int
    attributes: dict[str, str] | None = None

    @property
    def _event(self) -> NewEvent:
        return NewEvent(self.type, self.payload, self.caller_seq, self.attributes)

    def wants(self) -> Missing | None:
        return _wanted([self._event])

    def decide(self, change: Change) -> Appended:
        return _appended(change, [self._event], self.token)[0]


class AllAppended(msgspec.Struct, frozen=True, gc=False):
    """Several events that were appended together, in their order."""

    events: tuple[Appended, ...]


class AppendEvents(msgspec.Struct, frozen=True, gc=False):
    """The same with several, all or none."""

    ref: RunRef
    events: tuple[NewEvent, ...]
    token: int

    def wants(self) -> Missing | None:
        return _wanted(self.events)

    def decide(self, change: Change) -> AllAppended:
        return AllAppended(tuple(_appended(change, self.events, self.token)))


def _wanted(events: Sequence[NewEvent]) -> Missing | None:
    sides: list[SideKey] = [(CallerSeq, event.caller_seq) for event in events if event.caller_seq]
    return Missing(sides=sides) if sides else None


def _appended(change: Change, events: Sequence[NewEvent], token: int) -> list[Appended]:
    run = change.open
    if run.driven:
        held(change, token)
    appended = []
    for event in events:
        side: SideKey = (CallerSeq, event.caller_seq)
        if event.caller_seq and change.side(side) is not None:
            raise errors.EventSeqExists(run_id=run.run_id, caller_seq=event.caller_seq)
        number = change.caller_event(event.type, event.payload, event.caller_seq, event.attributes)
        if event.caller_seq:
            change.put_side(side, CallerSeq(run.run_key, event.caller_seq, number))
        appended.append(Appended(run.run_id, number, pack(run.run_key, number), change.now))
    return appended


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
