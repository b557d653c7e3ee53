"""Tasks that nobody awaits: kept, told of when they fail, and ended with their owner."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from stepwell_server import refusals

if TYPE_CHECKING:
    from collections.abc import Awaitable

_log = structlog.get_logger("stepwell.dispatch")


class Background:
    """See the module."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Awaitable[None]) -> None:
        """Lets work go on by itself."""

        async def run() -> None:
            try:
                await work
            except refusals.Refusal as refusal:
                _log.info("gave up", reason=refusal.reason)
            except Exception:  # noqa: BLE001 - nobody awaits this task
                _log.exception("dispatch failed")

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Ends all that is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
