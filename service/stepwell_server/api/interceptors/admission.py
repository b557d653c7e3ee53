"""How many calls and streams may be under way at once. One beyond is refused at once, with advice when to come again.

Without a bound, callers of a database that stands still would fill the memory: a call that waits takes some 20 KiB.
And nobody may take it all: of both, who calls with one key, or without any over one connection, has a share. What a
call came with counts here, before it is known whether that is a key: what is none is refused soon.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING

from stepwell_server.api.interceptors.around import AroundCalls, Context, Handler
from stepwell_server.errors import QueueFull, TooManyStreams
from stepwell_server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell_server import refusals
    from stepwell_server.settings import Settings

    Refused = Callable[[], refusals.Refusal]

# Of all calls, for one caller.
_MOST_OF_ONE = 0.75


class Admission:
    """Counts calls and streams; refuses those beyond the bounds with QUEUE_FULL, and with TOO_MANY_STREAMS."""

    def __init__(self, settings: Settings) -> None:
        calls, of_one = settings.calls_at_once, settings.limits.streams_per_key
        full, key_full = partial(QueueFull, queue="calls"), partial(QueueFull, queue="calls of one key")
        self._calls = _Room(calls, math.ceil(calls * _MOST_OF_ONE), full, key_full)
        metrics.calls_under_way.set_function(lambda: self._calls.count)
        full, too_many = partial(QueueFull, queue="streams"), partial(TooManyStreams, streams_per_key=of_one)
        self._streams = _Room(settings.streams_at_once, of_one, full, too_many)

    def wrap(self, method: str, handler: Handler) -> Handler:
        """The handler, for as many as there is room for."""
        is_stream = handler.request_streaming or handler.response_streaming
        return _Admitted(self._streams if is_stream else self._calls).wrap(method, handler)


class _Room:
    """How many are in, in all and of each caller, and what is said to one too many."""

    def __init__(self, most: int, most_of_one: int, full: Refused, too_many: Refused) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._full = full
        self._too_many = too_many
        self.count = 0
        self._of_each: Counter[str] = Counter()

    def enter(self, caller: str) -> None:
        if self.count >= self._most:
            raise self._full()
        if self._of_each[caller] >= self._most_of_one:
            raise self._too_many()
        self.count += 1
        self._of_each[caller] += 1

    def leave(self, caller: str) -> None:
        self.count -= 1
        self._of_each[caller] -= 1
        if not self._of_each[caller]:
            del self._of_each[caller]


class _Admitted(AroundCalls):
    def __init__(self, room: _Room) -> None:
        self._room = room

    def around(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        del method
        return _Inside(self._room, _caller_of(context))


class _Inside:
    """Around one call. A class, since each call is surrounded: `asynccontextmanager` costs several times as much."""

    __slots__ = ("_caller", "_room")

    def __init__(self, room: _Room, caller: str) -> None:
        self._room = room
        self._caller = caller

    async def __aenter__(self) -> None:
        self._room.enter(self._caller)

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._room.leave(self._caller)


def _caller_of(context: Context) -> str:
    """Who calls, as far as it can be told so early: by a key, or else by a connection."""
    for name, value in context.invocation_metadata() or ():
        if name == "authorization" and isinstance(value, str):
            return value
    return str(context.peer())
