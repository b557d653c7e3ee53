"""Coalescing: what many callers ask for at once goes out in few calls.

Nobody waits for company: what gathers while calls are under way is the next call. A unary call costs the service about
as much as a hundred items of a batch.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from stepwell import errors
from stepwell._rpc import backoff, is_passing

if TYPE_CHECKING:
    from google.protobuf.message import Message

MAX_ITEMS = 128
MAX_BYTES = 1_000_000
LANES = 3

Request = TypeVar("Request", bound="Message")
Response = TypeVar("Response")


class _Item(Generic[Request, Response]):
    __slots__ = ("attempt", "end", "future", "request", "traceparent")

    def __init__(self, request: Request, traceparent: str, end: float, future: asyncio.Future[Response]) -> None:
        self.request = request
        self.traceparent = traceparent
        self.end = end
        self.future = future
        self.attempt = 0


class Coalescer(Generic[Request, Response]):
    """Sends items in batches: a few calls at a time, each with what is queued."""

    def __init__(
        self,
        send: Callable[[list[Request], str], Awaitable[Sequence[Response | errors.ServiceError]]],
        timeout: float,
    ) -> None:
        """Begins with nothing queued. `send` answers each item in order; `timeout` seconds bound an item's repeats."""
        self._send = send
        self._timeout = timeout
        self._queue: collections.deque[_Item[Request, Response]] = collections.deque()
        self._lanes: set[asyncio.Task[None]] = set()
        self._is_starting = False
        self._loop = asyncio.get_running_loop()

    def submit(self, request: Request, traceparent: str) -> asyncio.Future[Response]:
        """Queues an item. Items of one trace share calls, since a call has one trace context."""
        future: asyncio.Future[Response] = self._loop.create_future()
        self._put(_Item(request, traceparent, time.monotonic() + self._timeout, future))
        return future

    def _put(self, item: _Item[Request, Response]) -> None:
        self._queue.append(item)
        if not self._is_starting and len(self._lanes) < LANES:
            self._is_starting = True
            lane = self._loop.create_task(self._drain())
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)

    async def _drain(self) -> None:
        self._is_starting = False
        while self._queue:
            await self._send_batch(self._take())

    def _take(self) -> list[_Item[Request, Response]]:
        queue = self._queue
        taken: list[_Item[Request, Response]] = []
        size = 0
        while queue and len(taken) < MAX_ITEMS:
            item = queue[0]
            size += item.request.ByteSize()
            if taken and (size > MAX_BYTES or item.traceparent != taken[0].traceparent):
                break
            taken.append(queue.popleft())
        return taken

    async def _send_batch(self, items: list[_Item[Request, Response]]) -> None:
        items = [item for item in items if not item.future.done()]
        if not items:
            return
        try:
            answers = await self._send([item.request for item in items], items[0].traceparent)
        except Exception as error:  # noqa: BLE001 - every caller hears of it
            answers = [error] * len(items)  # type: ignore[list-item]
        for item, answer in zip(items, answers, strict=True):
            if item.future.done():
                continue
            if not isinstance(answer, Exception):
                item.future.set_result(answer)
            elif not self._comes_again(item, answer):
                item.future.set_exception(answer)

    def _comes_again(self, item: _Item[Request, Response], error: Exception) -> bool:
        """Queues an item again that was refused in passing."""
        if not isinstance(error, errors.ServiceError) or not is_passing(error):
            return False
        delay = backoff(item.attempt, error)
        if time.monotonic() + delay >= item.end:
            return False
        item.attempt += 1
        self._loop.call_later(delay, self._put, item)
        return True
