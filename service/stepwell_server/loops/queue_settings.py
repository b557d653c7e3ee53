"""Looks at what is set for task queues, on each replica: what no hint told it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from stepwell_server.loops.loop import Loop

if TYPE_CHECKING:
    from stepwell_server.clock import Clock
    from stepwell_server.dispatch.queue_settings import KnownQueues

HINT = "queues"
_BATCH_SECONDS = 60.0


class QueueWatch(Loop):
    """See the module."""

    name = "queue settings"

    def __init__(self, queues: KnownQueues, clock: Clock, seconds: float) -> None:
        super().__init__(seconds)
        self._queues = queues
        self._clock = clock
        # By then all replicas have looked, and what they had begun before is over.
        self._known_within = timedelta(seconds=_BATCH_SECONDS + 2 * seconds)

    async def run_once(self) -> int:
        """One look."""
        known = await self._queues.look()
        await self._queues.mark_late(self._clock.now() - self._known_within)
        return known

    def hinted(self, kind: str, data: object) -> None:
        """What another replica tells."""
        del data
        if kind == HINT:
            self.wake()
