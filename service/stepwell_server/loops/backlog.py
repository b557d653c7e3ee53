"""The backlog: how much waits in which queue, and for how long. The leader tells of it, so that one replica does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.loops.loop import Loop
from stepwell_server.model.tasks import TaskKind
from stepwell_server.store import backlog
from stepwell_server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell_server.clock import Clock
    from stepwell_server.loops.connection import SharedConnection


class Backlog(Loop):
    """See the module. One that stops leading tells of nothing any more."""

    name = "backlog"

    def __init__(
        self, connection: SharedConnection, clock: Clock, seconds: float, may_run: Callable[[], bool] = lambda: True
    ) -> None:
        super().__init__(seconds, may_run)
        self._connection = connection
        self._clock = clock

    async def run_once(self) -> int:
        """Sets the gauges; answers how many queues have something."""
        now = self._clock.now()
        async with self._connection.use() as connection:
            found = await backlog.read_backlog(connection, now)
        metrics.set_backlog(
            {
                (each.namespace, each.task_queue, TaskKind(each.kind).name.lower()): (
                    each.waiting,
                    (now - each.oldest).total_seconds(),
                )
                for each in found
            }
        )
        return len(found)

    async def stop(self) -> None:
        """Ends, and takes the gauges away."""
        await super().stop()
        metrics.set_backlog({})
