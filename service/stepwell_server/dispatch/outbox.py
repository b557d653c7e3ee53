"""The bounded outbox of one stream: many put in, one writer takes out, urgent things first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from stepwell_server.dispatch.messages import (
    MOST_BYTES,
    AdvanceRun,
    Assign,
    BeatAnswer,
    Bundle,
    Question,
    ReportAnswer,
    TaskNotice,
    ended_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

Item = TypeVar("Item")
_MOST_ITEMS = 256


class _Lane(Generic[Item]):
    """Items of one kind, in their order; what is taken at once is bounded by number and size."""

    def __init__(self, size: Callable[[Item], int] = lambda _: 0) -> None:
        self.items: list[Item] = []
        self._size = size

    def take(self, budget: Budget) -> list[Item]:
        """The first items that the message still has room for; a first one of the message always goes."""
        count = 0
        for item in self.items[:_MOST_ITEMS]:
            if not budget.spend(self._size(item)):
                break
            count += 1
        taken = self.items[:count]
        del self.items[:count]
        return taken


class Budget:
    """How many bytes of payload one message may still take, whatever kinds of items they belong to."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._left = most
        self._is_empty = True

    def spend(self, size: int) -> bool:
        """Takes in an item if there is room for it, or if nothing else of size is there."""
        if size > self._left and not self._is_empty:
            return False
        self._left -= size
        self._is_empty = self._is_empty and not size
        return True


class Outbox:
    """See the module. What is put in after `close` is dropped: the session tells a resumed stream again."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._cancels: _Lane[TaskNotice] = _Lane()
        self._revokes: _Lane[TaskNotice] = _Lane()
        self._results: _Lane[ReportAnswer] = _Lane(_ended_size)
        self._beats: _Lane[BeatAnswer] = _Lane()
        self._advances: _Lane[AdvanceRun] = _Lane(_advance_size)
        self._assigns: _Lane[Assign] = _Lane(_assign_size)
        self._questions: _Lane[Question] = _Lane(lambda question: len(question.input.body))
        self._ping = 0
        self._pong = 0
        self._rotate: float | None = None
        self._expire_time: datetime | None = None
        self._is_overdue = False
        self._ready = asyncio.Event()
        self.closed = False
        self.overflowed = False
        self.has_rotated = False
        """Whether its worker was asked to connect anew."""
        self.ended = asyncio.Event()
        self.on_overflow: Callable[[], None] = lambda: None
        self.on_sent: Callable[[], None] = lambda: None
        self.on_told: Callable[[], None] = lambda: None

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

    def ask(self, question: Question) -> bool:
        """A query. False if so many wait already that this one has to; nobody is cut off for not answering."""
        if self.closed or len(self._questions.items) >= _MOST_ITEMS:
            return False
        self._put(self._questions, question)
        return True

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
        self._rotate, self.has_rotated = seconds, True
        self._ready.set()

    def prolonged(self, expire_time: datetime) -> None:
        """The session lives until then. It goes along with the next message; a second one is worth one of its own."""
        if self._expire_time is not None:
            self._is_overdue = True
            self._ready.set()
        self._expire_time = expire_time

    def close(self) -> None:
        """Ends the stream once what is in here is sent."""
        self.closed = True
        self._ready.set()
        self.ended.set()
        self.on_told()

    @property
    def most(self) -> int:
        """How much of one kind it takes; one more, and the stream is ended."""
        return self._most

    @property
    def untold(self) -> int:
        """How many answers its worker has not read."""
        return len(self._results.items) + len(self._beats.items)

    @property
    def spare(self) -> int:
        """How many more tasks it takes before its worker has read some."""
        return self._most - len(self._assigns.items)

    def withdraw(self, run_key: int, ordinal: int, token: int) -> bool:
        """Takes back a task that has not been sent, with the news of it. False if it has."""
        items = self._assigns.items
        for place, assign in enumerate(items):
            if assign.key == (run_key, ordinal) and assign.token == token:
                del items[place]
                if not ordinal:
                    self._advances.items = [each for each in self._advances.items if each.run_key != run_key]
                return True
        return False

    def _put(self, lane: _Lane[Item], item: Item) -> None:
        if self.closed:
            return
        if len(lane.items) >= self._most:
            self.overflowed = True
            self.close()
            asyncio.get_running_loop().call_soon(self.on_overflow)
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
            # One commit gives tasks, and right after that answers: they go together.
            await asyncio.sleep(0)

    def _bundle(self) -> Bundle | None:
        lanes = (self._cancels, self._revokes, self._results, self._beats, self._advances, self._assigns)
        signs = self._ping or self._pong or self._rotate is not None or self._is_overdue
        if not signs and not any(lane.items for lane in lanes) and not self._questions.items:
            return None
        budget = Budget()
        bundle = Bundle(
            cancels=self._cancels.take(budget),
            revokes=self._revokes.take(budget),
            results=self._results.take(budget),
            beats=self._beats.take(budget),
            advances=self._advances.take(budget),
            assigns=self._assigns.take(budget),
            questions=self._questions.take(budget),
            ping=self._ping,
            pong=self._pong,
            # Who moves must know all that it holds.
            rotate_seconds=None if self._assigns.items else self._rotate,
            expire_time=self._expire_time,
        )
        self._ping = self._pong = 0
        self._expire_time = None
        self._is_overdue = False
        if not self._assigns.items:
            self._rotate = None
        if bundle.assigns:
            self.on_sent()
        if bundle.results or bundle.beats:
            self.on_told()
        return bundle


def _ended_size(news: AdvanceRun | ReportAnswer) -> int:
    return sum(ended_size(each) for each in news.ended)


def _advance_size(advance: AdvanceRun) -> int:
    return _ended_size(advance) + sum(len(each.input.body) for each in advance.updates)


def _assign_size(assign: Assign) -> int:
    heartbeat = len(assign.heartbeat.body) if assign.heartbeat is not None else 0
    updates = sum(len(each.input.body) for each in assign.updates)
    return len(assign.payload.body) + heartbeat + updates + sum(len(step.payload.body) for step in assign.steps)
