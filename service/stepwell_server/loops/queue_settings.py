"""Looks at what is set for task queues, on each replica: what no hint told it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.loops.loop import Loop

if TYPE_CHECKING:
    from stepwell_server.dispatch.queue_settings import KnownQueues

HINT = "queues"


class QueueWatch(Loop):
    """See the module."""

    name = "queue settings"

    def __init__(self, queues: KnownQueues, seconds: float) -> None:
        super().__init__(seconds)
        self._queues = queues

    async def run_once(self) -> int:
        """One look."""
        return await self._queues.look()

    def hinted(self, kind: str, data: object) -> None:
        """What another replica tells."""
        del data
        if kind == HINT:
            self.wake()
