"""What waits for a committer: commands in the order of their arrival, and those set aside because their run is locked.

All commands of a run that is locked elsewhere wait aside together, in their order, and come back before all others. A
command that finds others of its run aside joins them. Both count for the bound.
"""

from __future__ import annotations

import asyncio
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

_FIRST_WAIT, _LONGEST_WAIT = 0.001, 0.050


class Entry(msgspec.Struct):
    """A command that waits for its answer. `future` is None for mail, which nobody waits for."""

    order: Order
    future: asyncio.Future[object] | None
    size: int
    deadline: float
    waits: int = 0
    key: int | None = None  # the run, once it is known
    asked: Asked | None = None  # what names the request, if a repeat is to be recognised
    inbox: int | None = None  # the number of the row that asks for it, which goes with what it does


class _Group(msgspec.Struct):
    """The commands of one run that are aside, until a moment of the steady clock."""

    due: float
    entries: list[Entry]


class Waiting:
    """See the module."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._queue: deque[Entry] = deque()
        self._groups: dict[int | None, _Group] = {}
        self._count = 0
        self._bytes = 0
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        """How many wait, aside or not."""
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        """All that wait, aside or not."""
        yield from self._queue
        for group in self._groups.values():
            yield from group.entries

    @property
    def is_full(self) -> bool:
        """Whether no more may come."""
        return self._count >= self._most or self._bytes > self._most_bytes

    @property
    def aside(self) -> dict[int | None, _Group]:
        """The runs whose commands are aside."""
        return self._groups

    def add(self, entry: Entry) -> None:
        """Lets a command wait its turn."""
        self._queue.append(entry)
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
        asyncio.get_running_loop().call_later(due - now, self._arrived.set)
        return True

    def take(self, most: int, most_bytes: int) -> list[Entry]:
        """The next batch: what comes back from aside goes first."""
        now = time.monotonic()
        for key in [key for key, group in self._groups.items() if group.due <= now]:
            self._queue.extendleft(reversed(self._groups.pop(key).entries))
        entries: list[Entry] = []
        taken = 0
        while self._queue and len(entries) < most and taken < most_bytes:
            entry = self._queue.popleft()
            self._counted(entry, -1)
            if entry.future is not None and entry.future.done():
                continue
            taken += entry.size
            entries.append(entry)
        return entries

    async def more(self) -> None:
        """Waits until `take` may have something to give."""
        now = time.monotonic()
        if self._queue or any(group.due <= now for group in self._groups.values()):
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
