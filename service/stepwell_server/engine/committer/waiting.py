"""What waits for a committer: a lane for each namespace, and commands set aside because their run is locked.

A lane keeps the order of arrival. From each lane a batch takes as many as there are in the shortest, or a few more: so
a namespace that asks for much waits for itself, and one that asks for little is in the next batch, which is soon done.
Alone a namespace fills the batches. Some of what may wait is kept from each, lest it shut the door for the others.

All commands of a run that is locked elsewhere wait aside together, in their order, and come back before all others. A
command that finds others of its run aside joins them. Both count for the bound.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from stepwell_server import errors
from stepwell_server.model.requests import Asked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stepwell_server import refusals
    from stepwell_server.engine.committer.orders import Order
    from stepwell_server.telemetry.calls import Call

_FIRST_WAIT, _LONGEST_WAIT = 0.001, 0.050
_SEVERAL, _LEAST_SHARE = 2, 16
# After several namespaces have met: for so long batches have at most this part of what one may have.
_SHARED_SECONDS, _SHARED_PART = 1.0, 0.25
# Of all that may wait, for one namespace.
_MOST_OF_ONE = 0.75


class Entry(msgspec.Struct):
    """A command that waits for its answer. `future` is None for mail, which nobody waits for."""

    order: Order
    future: asyncio.Future[object] | None
    size: int
    deadline: float
    namespace_id: int | None = None  # None: of nobody's asking, as mail
    waits: int = 0
    key: int | None = None  # the run, once it is known
    asked: Asked | None = None  # what names the request, if a repeat is to be recognised
    inbox: int | None = None  # the number of the row that asks for it, which goes with what it does
    since: float = math.inf  # when it came; what nobody waits for is never slow
    call: Call | None = None  # the one that asks for it


class _Lane:
    """The commands of one namespace, and how many bytes they have."""

    __slots__ = ("entries", "size")

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.size = 0


class _Group(msgspec.Struct):
    """The commands of one run that are aside, until a moment of the steady clock."""

    due: float
    entries: list[Entry]


class Waiting:
    """See the module."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._lanes: dict[int | None, _Lane] = {}  # none is empty; the first is the next in turn
        self._back = _Lane()  # from aside
        self._groups: dict[int | None, _Group] = {}
        self._shared_until = 0.0
        self._count = 0
        self._bytes = 0
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        """How many wait, aside or not."""
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        """All that wait, aside or not."""
        for lane in (self._back, *self._lanes.values()):
            yield from lane.entries
        for group in self._groups.values():
            yield from group.entries

    def has_room(self, namespace_id: int | None) -> bool:
        """Whether more may come of a namespace."""
        lane = self._lanes.get(namespace_id)
        if lane is not None and (
            len(lane.entries) >= self._most * _MOST_OF_ONE or lane.size > self._most_bytes * _MOST_OF_ONE
        ):
            return False
        return self._count < self._most and self._bytes <= self._most_bytes

    @property
    def aside(self) -> dict[int | None, _Group]:
        """The runs whose commands are aside."""
        return self._groups

    def add(self, entry: Entry) -> None:
        """Lets a command wait its turn."""
        lane = self._lanes.get(entry.namespace_id)
        if lane is None:
            lane = self._lanes[entry.namespace_id] = _Lane()
        lane.entries.append(entry)
        lane.size += entry.size
        self._counted(entry, 1)
        self._arrived.set()

    def set_aside(self, entry: Entry) -> bool:
        """Lets a command whose run is locked wait with the others of that run; False if its time would be over."""
        group = self._groups.get(entry.key)
        now = time.monotonic()
        due = now + min(_FIRST_WAIT * 2 ** min(entry.waits, 6), _LONGEST_WAIT) if group is None else group.due
        if due >= entry.deadline:
            return False
        entry.waits += 1
        self._counted(entry, 1)
        if group is not None:
            group.entries.append(entry)
            return True
        self._groups[entry.key] = _Group(due, [entry])
        self._wake_at(due)
        return True

    def _wake_at(self, due: float) -> None:
        """Has `more` return then, and not before: a loop's timers may be early, and nobody else may ever come."""
        left = due - time.monotonic()
        if left > 0:
            asyncio.get_running_loop().call_later(left, self._wake_at, due)
        else:
            self._arrived.set()

    def take(self, most: int, most_bytes: int) -> list[Entry]:
        """The next batch: what comes back from aside goes first."""
        now = time.monotonic()
        for key in [key for key, group in self._groups.items() if group.due <= now]:
            entries = self._groups.pop(key).entries
            self._back.entries.extendleft(reversed(entries))
            self._back.size += sum(entry.size for entry in entries)
        if len(self._lanes) >= _SEVERAL:
            self._shared_until = now + _SHARED_SECONDS
        if now < self._shared_until:
            most = math.ceil(most * _SHARED_PART)
        taken: list[Entry] = []
        room = self._move(self._back, taken, most, most_bytes)
        share = self._share(most - len(taken))
        for namespace_id in list(self._lanes):
            if len(taken) >= most or room <= 0:
                break
            lane = self._lanes.pop(namespace_id)
            room = self._move(lane, taken, min(most, len(taken) + share), room)
            if lane.entries:
                self._lanes[namespace_id] = lane  # behind the others
        return taken

    def _share(self, most: int) -> int:
        """How many each lane may give: no more than the shortest has, lest that wait for the others."""
        lanes = self._lanes.values()
        if len(lanes) < _SEVERAL:
            return most
        shortest = min(len(lane.entries) for lane in lanes)
        return min(max(_LEAST_SHARE, shortest), max(1, most // len(lanes)))

    def _move(self, lane: _Lane, entries: list[Entry], most: int, room: int) -> int:
        """Takes out of a lane until there are so many entries, or the bytes are used up; answers how many are left."""
        while lane.entries and len(entries) < most and room > 0:
            entry = lane.entries.popleft()
            lane.size -= entry.size
            self._counted(entry, -1)
            if entry.future is not None and entry.future.done():
                continue
            room -= entry.size
            entries.append(entry)
        return room

    async def more(self) -> None:
        """Waits until `take` may have something to give."""
        now = time.monotonic()
        if self._back.entries or self._lanes or any(group.due <= now for group in self._groups.values()):
            return
        self._arrived.clear()
        await self._arrived.wait()

    def wake(self) -> None:
        """Ends a wait for more."""
        self._arrived.set()

    def _counted(self, entry: Entry, sign: int) -> None:
        self._count += sign
        self._bytes += sign * entry.size


def without_late(entries: Sequence[Entry]) -> list[Entry]:
    """The entries that still have time; the others are told that the database is away."""
    now = time.monotonic()
    answer_all([entry for entry in entries if entry.deadline <= now], errors.DatabaseUnavailable())
    return [entry for entry in entries if entry.deadline > now]


def answer_all(entries: Sequence[Entry], refusal: refusals.Refusal) -> None:
    """Refuses what is not answered yet."""
    for entry in entries:
        if entry.future is not None and not entry.future.done():
            entry.future.set_exception(refusal)
