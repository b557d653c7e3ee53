"""What a run has to tell the service: new steps, where its branches stand, given-up steps and the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell._scopes import EMPTY_HASH
from stepwell.v1.workers_pb2 import NewStep, Progress, UpdateRejection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stepwell._calls import Call, Entry
    from stepwell._scopes import Record, Scope
    from stepwell.v1.types_pb2 import Payload
    from stepwell.v1.workers_pb2 import ScopeState

MAX_STEPS = 256
MAX_BYTES = 1_000_000
# One would do for the service to see that branches are missing; people are shown a few.
UNOPENED = 8


class Outgoing:
    """Gathers what a run has to tell until one Progress takes it; one is under way at a time.

    So what gathers while the service records the last one is the next, and a refused one has no successors.
    """

    __slots__ = (
        "calls",
        "cancel_ordinals",
        "last_marker",
        "pending",
        "rejections",
        "scopes",
        "sent",
        "sent_progress",
        "stop_ordinals",
        "told_waiting",
    )

    def __init__(self) -> None:
        """Begins with nothing to tell."""
        self.pending: list[Entry] = []
        self.scopes: dict[str, Scope] = {}
        self.cancel_ordinals: list[int] = []
        self.rejections: list[UpdateRejection] = []
        self.stop_ordinals: list[int] = []
        self.sent: list[Entry] | None = None
        self.sent_progress: Progress | None = None
        self.told_waiting = False
        self.last_marker: Entry | None = None
        self.calls = 0

    def add(self, entry: Entry) -> None:
        """Takes a new step."""
        self.calls += 1
        self.pending.append(entry)

    def replay(self, scope: Scope, kind: int, name: str, key: str) -> None:
        """Counts a call that is recorded."""
        self.calls += 1
        scope.replay(kind, name, key)
        self.note(scope)

    def note(self, scope: Scope) -> None:
        """Takes a branch that replayed calls, or has returned."""
        self.scopes[scope.path] = scope

    @property
    def has_steps(self) -> bool:
        """Tells whether something must be recorded."""
        return bool(self.pending or self.cancel_ordinals or self.stop_ordinals or self.rejections)

    def give_up(self, call: Call[Any]) -> None:
        """Lets the service cancel the step of a call that nobody waits for, as soon as its ordinal is known."""
        call.is_forsaken = True
        if call.ordinal:
            self.cancel_ordinals.append(call.ordinal)

    def stop(self, call: Call[Any]) -> None:
        """Lets the service ask the activity of a call to stop, once, as soon as its ordinal is known."""
        if not call.is_stopping:
            call.is_stopping = True
            if call.ordinal:
                self.stop_ordinals.append(call.ordinal)

    def take(
        self, *, is_quiet: bool, end: dict[str, Any] | None, record: Record, published: dict[str, Payload]
    ) -> Progress:
        """Makes the next Progress. `is_quiet`: no code of the run is at work, nor waits for a mere record."""
        entries = self._take_entries()
        states = self._take_states(entries)
        left = bool(self.pending) or len(self.rejections) > MAX_STEPS
        waiting = is_quiet and not left and end is None
        told = {} if end is None or left else end
        progress = Progress(scopes=states, steps=[entry.step for entry in entries], waiting=waiting, **told)
        if "complete" in told or "continue_as_new" in told:
            self._tell_whole(progress, record)
        if published or self.cancel_ordinals or self.stop_ordinals or self.rejections:
            self._tell_rest(progress, published, left=left)
        self.sent = entries
        self.sent_progress = progress
        self.told_waiting = waiting
        return progress

    def _take_states(self, entries: list[Entry]) -> Iterable[ScopeState]:
        """Says where the branches stood before these steps, and takes the steps for told."""
        if len(entries) == 1 and not self.scopes:  # what most have to tell
            entry = entries[0]
            state = entry.scope.state()
            entry.scope.told_count, entry.scope.told_order = entry.count, entry.order
            return (state,)
        states = {}
        for entry in entries:
            scope = entry.scope
            if scope.path not in states:
                states[scope.path] = scope.state()
        for path, scope in self.scopes.items():
            if path not in states:
                states[path] = scope.state()
        for entry in entries:
            entry.scope.told_count = entry.count
            entry.scope.told_order = entry.order
        # A branch that has returned says so in the next one, if it has steps in this one, or still to send.
        for path, scope in list(self.scopes.items()):
            if not scope.closed or states[path].closed:
                del self.scopes[path]
        return states.values()

    def _tell_rest(self, progress: Progress, published: dict[str, Payload], *, left: bool) -> None:
        """Tells what few have to tell. `left`: there are steps that this one has no room for."""
        rest = Progress(
            # Never before the steps that they came of: a race's winner, say.
            cancel_ordinals=() if left else self.cancel_ordinals,
            rejections=self.rejections[:MAX_STEPS],
            published=published,
            stop_ordinals=self.stop_ordinals,
        )
        progress.MergeFrom(rest)
        self.cancel_ordinals, self.stop_ordinals = self.cancel_ordinals if left else [], []
        del self.rejections[:MAX_STEPS]

    def _tell_whole(self, progress: Progress, record: Record) -> None:
        """Says that the code has made all its calls, and which recorded branches it has not entered."""
        progress.calls = self.calls
        for path in record.unopened()[:UNOPENED]:
            progress.scopes.add(scope=path, hash=EMPTY_HASH, closed=True)

    def _take_entries(self) -> list[Entry]:
        pending = self.pending
        if not pending:
            return []
        if len(pending) == 1:
            self.pending = []
            return pending
        count = size = 0
        for entry in pending[:MAX_STEPS]:
            size += entry.step.ByteSize()
            if count and size > MAX_BYTES:
                break
            count += 1
        self.pending = pending[count:]
        return pending if count == len(pending) else pending[:count]

    def answer(self, ordinals: list[int]) -> list[Entry]:
        """Takes the answer to the Progress under way: what was sent is recorded."""
        entries, self.sent, self.sent_progress = self.sent or [], None, None
        for entry, ordinal in zip(entries, ordinals, strict=False):
            call = entry.call
            if call is not None:
                call.ordinal = ordinal
                if call.is_forsaken:
                    self.cancel_ordinals.append(ordinal)
                elif call.is_stopping:
                    self.stop_ordinals.append(ordinal)
        if self.last_marker is not None and self.last_marker in entries:
            self.last_marker = None
        return entries


def new_step(scope: str, name: str, occurrence: int | str, body: dict[str, Any]) -> NewStep:
    """Spells a new step; an occurrence that is text is a key."""
    if isinstance(occurrence, str):
        return NewStep(scope=scope, name=name, key=occurrence, **body)
    return NewStep(scope=scope, name=name, occurrence=occurrence, **body)
