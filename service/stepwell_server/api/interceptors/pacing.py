"""How fast messages of one stream are read. Beyond that they wait, at last in their sender: so a flood slows itself.

gRPC takes in no more of a stream than its window while nobody reads.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from stepwell_server.api.interceptors.around import MAKERS, Behavior, Context, Handler

# So much may come at once, after a pause.
_BURST_SECONDS = 1.0


class Pacing:
    """Reads of each stream at most so many messages a second."""

    def __init__(
        self,
        per_second: int,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._seconds = 1.0 / per_second
        self._clock = clock
        self._pause = pause

    def wrap(self, method: str, handler: Handler) -> Handler:
        """The handler, to which messages come no faster."""
        del method
        if not handler.request_streaming:
            return handler
        kind, make = MAKERS[True, handler.response_streaming]
        behavior: Behavior = getattr(handler, kind)
        wrap = self._generator if inspect.isasyncgenfunction(behavior) else self._coroutine
        return make(
            wrap(behavior),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _coroutine(self, behavior: Behavior) -> Behavior:
        async def call(requests: Any, context: Context) -> object:  # noqa: ANN401 - a stream of any messages
            return await behavior(self._paced(requests), context)

        return call

    def _generator(self, behavior: Behavior) -> Behavior:
        async def call(requests: Any, context: Context) -> AsyncGenerator[object, None]:  # noqa: ANN401 - likewise
            async with aclosing(behavior(self._paced(requests), context)) as responses:
                async for response in responses:
                    yield response

        return call

    async def _paced(self, requests: AsyncIterator[object]) -> AsyncIterator[object]:
        due = self._clock()  # when the next one would be, did they come evenly
        async for request in requests:
            now = self._clock()
            due = max(due, now) + self._seconds
            if due - now > _BURST_SECONDS:
                await self._pause(due - now - _BURST_SECONDS)
            yield request
