"""How many calls may be under way at once. One beyond is refused at once, with advice when to come again.

Without a bound, callers of a database that stands still would fill the memory: a call that waits takes some 20 KiB.
Streams have bounds of their own.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from stepwell_server.api.interceptors.around import AroundCalls, Context
from stepwell_server.errors import QueueFull
from stepwell_server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Admission(AroundCalls):
    """Counts unary calls, and refuses those beyond the bound with QUEUE_FULL."""

    unary_only = True

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way = 0
        metrics.calls_under_way.set_function(lambda: self._under_way)

    def around(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        return self._counted()

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        if self._under_way >= self._most:
            raise QueueFull(queue="calls")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
