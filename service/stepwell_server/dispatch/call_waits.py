"""Who waits at this replica for a run to answer a query or an update."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from stepwell_server import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell_server.model.run_calls import CallAnswer, Rejection, RunCall

_MOST = 10_000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class Wait:
    """A call that somebody waits for."""

    __slots__ = ("_news", "_pause", "answer", "call", "called_for", "end", "is_posted")

    def __init__(self, call: RunCall, seconds: float) -> None:
        self.call = call
        self.end = asyncio.get_running_loop().time() + seconds
        self.answer: CallAnswer | None = None
        self.is_posted = False  # a row of `run_calls` stands for it
        self.called_for: object = None  # as whom the run was last seen to belong to when it was called
        self._news = asyncio.Event()
        self._pause = _FIRST_PAUSE

    @property
    def seconds(self) -> float:
        """How long it may still wait."""
        return max(0.0, self.end - asyncio.get_running_loop().time())

    def take(self, answer: CallAnswer) -> None:
        """The run's worker has answered."""
        self.answer = answer
        self.stir()

    def stir(self) -> None:
        """Something has happened to the run."""
        self._news.set()

    async def news(self) -> bool:
        """Waits until something has happened, or for a while, since news may get lost. False if the time is over."""
        left = self.seconds
        if not left:
            return False
        try:
            async with asyncio.timeout(min(self._pause, left)):
                await self._news.wait()
        except TimeoutError:
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        else:
            self._pause = _FIRST_PAUSE
        self._news.clear()
        return True


class CallWaits:
    """All of them, by run."""

    def __init__(self) -> None:
        self._by_run: dict[int, set[Wait]] = {}
        self._count = 0

    @contextlib.contextmanager
    def wait(self, call: RunCall, seconds: float) -> Iterator[Wait]:
        """Lets somebody wait. Refuses with QUEUE_FULL when very many do."""
        if self._count >= _MOST:
            raise errors.QueueFull(queue="run_calls")
        wait = Wait(call, seconds)
        waits = self._by_run.setdefault(call.run_key, set())
        waits.add(wait)
        self._count += 1
        try:
            yield wait
        finally:
            self._count -= 1
            waits.discard(wait)
            if not waits and self._by_run.get(call.run_key) is waits:
                del self._by_run[call.run_key]

    def stir(self, run_key: int) -> None:
        """Something has happened to a run."""
        for wait in self._by_run.get(run_key, ()):
            wait.stir()

    def reject(self, run_key: int, rejection: Rejection, said: CallAnswer) -> None:
        """An update was not accepted."""
        for wait in self._by_run.get(run_key, ()):
            if wait.call.update_id == rejection.update_id:
                wait.take(said)
