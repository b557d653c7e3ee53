"""The standard health service, whose watches end when the server does.

A watch of health has no end of its own. Balancers and clients that keep one would hold up every orderly stop for as
long as running calls may take.
"""

from __future__ import annotations

import asyncio
from typing import Any

from grpc_health.v1 import health  # type: ignore[import-untyped]


class Health(health.aio.HealthServicer):  # type: ignore[misc]
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = asyncio.Event()

    def close(self) -> None:
        """Ends all watches, and those that come later."""
        self._ended.set()

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: ANN401 - messages without types
        watching = asyncio.create_task(super().Watch(request, context))
        ending = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait((watching, ending), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
        finally:
            watching.cancel()
            ending.cancel()
            await asyncio.gather(watching, ending, return_exceptions=True)
