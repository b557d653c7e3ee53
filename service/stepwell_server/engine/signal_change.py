"""A run while a batch changes it, fourth part: its signals, and the steps that wait for a signal or a topic."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from msgspec.structs import replace

from stepwell_server.engine.lazily import Kinds
from stepwell_server.engine.side_change import SideChange
from stepwell_server.engine.wishes import EVERY_SIGNAL, Missing
from stepwell_server.model.events import EventType, received_signal
from stepwell_server.model.signals import Signal
from stepwell_server.model.steps import Kind, Step, has_expired, is_on_topic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from stepwell_server.model.topics import TopicCopy


class Slice(NamedTuple):
    """Signals that go from a run to the one that continues it, and whether there are more."""

    signals: list[Signal]
    has_more: bool


class SignalChange(SideChange):
    """See the module, and `change`."""

    __slots__ = (
        "carried",
        "carried_away",
        "consumed",
        "emptied",
        "given_back",
        "new_signals",
        "received",
        "signal_ids",
        "signals",
        "slices",
        "topic_copies",
    )

    lazy: ClassVar[Kinds] = {
        **SideChange.lazy,
        "signals": dict,
        "signal_ids": dict,
        "new_signals": list,
        "consumed": list,
        "slices": dict,
        "carried": list,
        "carried_away": list,
        "emptied": list,
        "given_back": dict,
        "received": list,
        "topic_copies": list,
    }
    signals: dict[str, list[Signal]]
    signal_ids: dict[str, Signal]
    new_signals: list[Signal]
    consumed: list[Signal]
    slices: dict[int, Slice]
    carried: list[Signal]
    carried_away: list[tuple[int, int]]
    emptied: list[int]
    given_back: dict[int, Signal]
    received: list[Signal]
    topic_copies: list[TopicCopy]  # what it got of topics counts as signals, too

    def load_signals(self, name: str, stored: Sequence[Signal], through: int) -> None:
        """Takes in the next signals of that name that nobody has taken, as stored: all up to the ordinal `through`."""
        kept = [*self.signals.get(name, []), *stored]
        self.signals[name] = sorted(kept, key=lambda each: each.ordinal)
        self.known.add_signals(name, through)

    def pending_signals(self, name: str, through: int = 0) -> list[Signal]:
        """Signals of that name that nobody has taken: the oldest, and all others up to the ordinal `through`."""
        kept = self.signals.get(name, [])
        known = self._signals_known(name)
        if known < EVERY_SIGNAL and (through > known or not kept or kept[0].ordinal > known):
            raise Missing(signals=[name])
        return kept

    def _signals_known(self, name: str) -> int:
        """Up to which ordinal the signals of that name are loaded that nobody has taken."""
        if self.fresh or self.known.received or not self.open.last_signal:
            return EVERY_SIGNAL
        return self.known.signals.get(name, 0)

    def add_signal(self, signal: Signal) -> None:
        """Keeps a signal until it is waited for."""
        self._set(self.signals, signal.name, [*self.signals.get(signal.name, []), signal])
        self._note_signal(signal)

    def note_taken_signal(self, signal: Signal) -> None:
        """Keeps the id of a signal that was taken as it came, so that a repeat is recognised."""
        if signal.signal_id is not None:
            self._note_signal(signal)
        else:
            self.update(last_signal=signal.ordinal)

    def _note_signal(self, signal: Signal) -> None:
        self.new_signals.append(signal)
        if signal.signal_id is not None:
            self._set(self.signal_ids, signal.signal_id, signal)
        self.update(last_signal=signal.ordinal)

    def take_signal(self, signal: Signal) -> None:
        """Takes a kept signal."""
        self._set(self.signals, signal.name, [each for each in self.signals[signal.name] if each is not signal])
        if signal.ordinal in self.given_back:
            self._pop(self.given_back, signal.ordinal)
        else:
            self.consumed.append(signal)

    def every_signal(self) -> list[Signal]:
        """All signals that the run ever got, taken or not, in their order. Asks for them if they are not loaded."""
        if not self.known.received and self.had_signals:
            raise Missing(received=True)
        fresh = [
            received_signal(event.run_key, event.number, event.attributes, event.event_time)
            for event in self.events
            if event.type == EventType.SIGNAL_RECEIVED
        ]
        fresh += [
            received_signal(copy.run_key, copy.number, copy.attributes, copy.event_time) for copy in self.topic_copies
        ]
        chain_key = self.chain_key
        every = {each.ordinal: replace(each, chain_key=chain_key) for each in (*self.received, *self.carried, *fresh)}
        return [every[ordinal] for ordinal in sorted(every)]

    def give_back(self, signal: Signal) -> None:
        """Keeps a signal again that was taken; where it stands among its kind, its ordinal says."""
        kept = self.signals.get(signal.name, [])
        if any(each.ordinal == signal.ordinal for each in kept):
            return
        self._set(self.signals, signal.name, sorted([*kept, signal], key=lambda each: each.ordinal))
        self._set(self.given_back, signal.ordinal, signal)

    @property
    def had_signals(self) -> bool:
        """Whether the run, open or closed, ever got a signal."""
        return bool((self.run or self._closed_run).last_signal)

    def signal_with_id(self, signal_id: str) -> Signal | None:
        """The signal that was recorded under that id, or None."""
        found = self.signal_ids.get(signal_id)
        # A new run that continues another does not know its chain's ids any better than that one.
        is_new = self.fresh and self.chain_key == self.run_key
        if found is None and signal_id not in self.known.signal_ids and not is_new and self.had_signals:
            raise Missing(signal_ids=[signal_id])
        return found

    def left_signals(self, run_key: int) -> Slice:
        """Signals of a run of its chain that nobody has taken, oldest first, as many as may be carried together."""
        if not self.had_signals:
            return Slice([], has_more=False)
        if run_key not in self.slices:
            raise Missing(carried=[run_key])
        if run_key != self.run_key:
            # Another letter of this batch may have taken them over.
            gone = set(self.carried_away)
            left = [each for each in self.slices[run_key].signals if (run_key, each.ordinal) not in gone]
            return Slice(left, self.slices[run_key].has_more)
        taken = {signal.ordinal for signal in self.consumed} - self.given_back.keys()
        stored, has_more = self.slices[run_key]
        fresh = [*(signal for signal in self.new_signals if not signal.consumed), *self.given_back.values()]
        known = {signal.ordinal: signal for signal in (*fresh, *stored)}
        return Slice([known[ordinal] for ordinal in sorted(known) if ordinal not in taken], has_more)

    def carry_signal(self, signal: Signal) -> None:
        """Takes a signal over from another run of its chain, in its place among those that this one got."""
        event = self.copy_event(signal.run_key, signal.event)
        self.carried_away.append((signal.run_key, signal.ordinal))
        own = replace(signal, run_key=self.run_key, event=event)
        self.carried.append(own)
        if self.fresh:
            self._set(self.signals, own.name, [*self.signals.get(own.name, []), own])

    def waiting_for(self, signal: str, now: datetime | None = None) -> Step | None:
        """The oldest step that waits for that signal, or None. One whose time was over then waits no more."""
        waiting = [
            step for step in self._waiting(signal) if not is_on_topic(step) and not has_expired(step, now or self.now)
        ]
        return min(waiting, key=lambda step: step.ordinal, default=None)

    def _waiting(self, name: str) -> list[Step]:
        """Open steps that wait for a signal or a topic of that name."""
        if name not in self.known.waits and not self.known.open_steps and self.open.open_steps:
            raise Missing(waits=[name])
        return [step for step in self.steps.values() if step.wait_name == name and step.kind == Kind.WAIT]
