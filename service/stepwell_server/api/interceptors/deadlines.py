"""How long a call may take. The caller's deadline is kept by gRPC; this tells the code below how much is left.

A unary call without a deadline, or with one that is far away, ends after `MAXIMUM` seconds all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar

from stepwell_server.api.interceptors.around import NOTHING, AroundCalls, Context
from stepwell_server.telemetry.calls import current

MAXIMUM = 120.0
LONGEST_WAIT = 60.0
# An empty answer must still reach its caller in time.
_MARGIN = 0.2

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def remaining(at_most: float = MAXIMUM) -> float:
    """Answers how many seconds the present call has left, at most as many as given; 0 when its time is over."""
    deadline = _deadline.get()
    if deadline is None:
        return at_most
    return min(at_most, max(0.0, deadline - time.monotonic()))


def wait_seconds(asked: float | None, *, default: float, at_most: float = LONGEST_WAIT) -> float:
    """Answers how long a call that waits for something may wait, so that it answers before its caller gives up."""
    call = current.get()
    if call is not None:
        call.waits = True
    wanted = min(default if asked is None else asked, at_most)
    left = remaining(MAXIMUM)
    return max(0.0, min(wanted, left - min(_MARGIN, left / 4)))


class Deadlines(AroundCalls):
    """Notes each unary call's deadline and bounds it."""

    unary_only = True

    def __init__(self, maximum: float = MAXIMUM) -> None:
        self._maximum = maximum

    def around(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        # The stub does not know that a call may be without a deadline.
        left: float | None = context.time_remaining()
        # A call runs in a task of its own, whose context ends with it: nothing needs to be reset.
        _deadline.set(time.monotonic() + min(self._maximum if left is None else left, self._maximum))
        if left is not None and left <= self._maximum:
            return NOTHING  # gRPC keeps it
        return _bounded(self._maximum)


@asynccontextmanager
async def _bounded(seconds: float) -> AsyncIterator[None]:
    async with asyncio.timeout(seconds):
        yield
