"""The bounded outbox of one stream: many put in, one writer takes out, urgent things first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from stepwell_server.dispatch.messages import AdvanceRun, Assign, BeatAnswer, Bundle, ReportAnswer, TaskNotice

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

Item = TypeVar("Item")
_MOST_ITEMS = 256
_MOST_BYTES = 1_000_000


class _Lane(Generic[Item]):
    """Items of one kind, in their order; what is taken at once is bounded by number and size."""

    def __init__(self, size: Callable[[Item], int] | None = None) -> None:
        self.items: list[Item] = []
        self._size = size

    def take(self, room: list[int]) -> list[Item]:
        """The first items, as far as `room` bytes reach; the first of all goes whatever its size. Lessens `room`."""
        count = min(len(self.items), _MOST_ITEMS)
        if self._size is not None:
            for place, item in enumerate(self.items[:count]):
                size = self._size(item)
                if size > room[0] and room[0] < _MOST_BYTES:
                    count = place
                    break
                room[0] -= size
        taken = self.items[:count]
        del self.items[:count]
        return taken


class Outbox:
    """See the module. What is put in after `close` is dropped: the session tells a resumed stream again."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._cancels: _Lane[TaskNotice] = _Lane()
        self._revokes: _Lane[TaskNotice] = _Lane()
        self._results: _Lane[ReportAnswer] = _Lane(_ended_size)
        self._beats: _Lane[BeatAnswer] = _Lane()
        self._advances: _Lane[AdvanceRun] = _Lane(_ended_size)
        self._assigns: _Lane[Assign] = _Lane(_assign_size)
        self._ping = 0
        self._pong = 0
        self._rotate: float | None = None
        self._expire_time: datetime | None = None
        self._ready = asyncio.Event()
        self.closed = False
        self.overflowed = False

    def cancel(self, notice: TaskNotice) -> None:
        """A task should stop."""
        self._put(self._cancels, notice)

    def revoke(self, notice: TaskNotice) -> None:
        """A task is held no longer."""
        self._put(self._revokes, notice)

    def answer(self, answer: ReportAnswer) -> None:
        """What became of a report."""
        self._put(self._results, answer)

    def beat(self, answer: BeatAnswer) -> None:
        """What became of a heartbeat."""
        self._put(self._beats, answer)

    def advance(self, advance: AdvanceRun) -> None:
        """News of a resident run."""
        self._put(self._advances, advance)

    def assign(self, assign: Assign) -> None:
        """A new task."""
        self._put(self._assigns, assign)

    def ping(self, number: int) -> None:
        """Asks for a sign of life."""
        self._ping = number
        self._ready.set()

    def pong(self, number: int) -> None:
        """Gives one."""
        self._pong = number
        self._ready.set()

    def rotate(self, seconds: float) -> None:
        """Asks the worker to connect anew."""
        self._rotate = seconds
        self._ready.set()

    def prolonged(self, expire_time: datetime) -> None:
        """The session lives until then."""
        self._expire_time = expire_time
        self._ready.set()

    def close(self) -> None:
        """Ends the stream once what is in here is sent."""
        self.closed = True
        self._ready.set()

    def _put(self, lane: _Lane[Item], item: Item) -> None:
        if self.closed:
            return
        if len(lane.items) >= self._most:
            self.overflowed = True
            self.close()
            return
        lane.items.append(item)
        self._ready.set()

    async def take(self) -> Bundle | None:
        """What the next message holds; None when the stream is to end."""
        while True:
            bundle = self._bundle()
            if bundle is not None:
                return bundle
            if self.closed:
                return None
            self._ready.clear()
            await self._ready.wait()

    def _bundle(self) -> Bundle | None:
        lanes = (self._cancels, self._revokes, self._results, self._beats, self._advances, self._assigns)
        signs = self._ping or self._pong or self._rotate is not None or self._expire_time is not None
        if not signs and not any(lane.items for lane in lanes):
            return None
        room = [_MOST_BYTES]
        bundle = Bundle(
            cancels=self._cancels.take(room),
            revokes=self._revokes.take(room),
            results=self._results.take(room),
            beats=self._beats.take(room),
            advances=self._advances.take(room),
            assigns=self._assigns.take(room),
            ping=self._ping,
            pong=self._pong,
            rotate_seconds=self._rotate,
            expire_time=self._expire_time,
        )
        self._ping = self._pong = 0
        self._rotate = self._expire_time = None
        return bundle


def _ended_size(news: AdvanceRun | ReportAnswer) -> int:
    return sum(len(step.payload.body) if step.payload is not None else 0 for step in news.ended)


def _assign_size(assign: Assign) -> int:
    return len(assign.payload.body) + sum(len(step.payload.body) for step in assign.steps)
