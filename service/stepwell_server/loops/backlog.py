"""The backlog: how much waits in which queue, for how long, and what of it nobody takes; and dead letters.

The leader tells of it, so that one replica does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.loops.loop import Loop
from stepwell_server.model.tasks import WORKERS_KINDS, TaskKind
from stepwell_server.model.workers import able
from stepwell_server.store import backlog
from stepwell_server.store.faults import in_our_words
from stepwell_server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell_server.clock import Clock
    from stepwell_server.loops.connection import SharedConnection
    from stepwell_server.model.workers import Hello
    from stepwell_server.store.backlog import Waiting
    from stepwell_server.store.crews import Crews


class Backlog(Loop):
    """See the module. One that stops leading tells of nothing any more."""

    name = "backlog"

    def __init__(
        self,
        connection: SharedConnection,
        crews: Crews,
        clock: Clock,
        seconds: float,
        may_run: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(seconds, may_run)
        self._connection = connection
        self._crews = crews
        self._clock = clock

    async def run_once(self) -> int:
        """Sets the gauges; answers how many queues have something."""
        now = self._clock.now()
        async with self._connection.use() as connection:
            found = await backlog.read_backlog(connection, now)
            letters = await backlog.count_dead_letters(connection)
        workers = await self._workers({(each.namespace_id, each.task_queue) for each in found})
        told: dict[metrics.Queue, tuple[int, float, int]] = {}
        for each in found:
            queue = each.namespace, each.task_queue, TaskKind(each.kind).name.lower()
            count, age, stranded = told.get(queue, (0, 0.0, 0))
            left = each.waiting if _is_stranded(each, workers[each.namespace_id, each.task_queue]) else 0
            age = max(age, (now - each.oldest).total_seconds())
            told[queue] = count + each.waiting, age, stranded + left
        metrics.set_backlog(told)
        metrics.dead_letters.set(letters)
        return len(told)

    async def stop(self) -> None:
        """Ends, and takes the gauges away."""
        await super().stop()
        metrics.set_backlog({})
        metrics.dead_letters.set(0)

    async def _workers(self, queues: set[tuple[int, str]]) -> dict[tuple[int, str], list[Hello]]:
        """The live workers of each queue."""
        with in_our_words():
            crews = {namespace_id: await self._crews.of(namespace_id) for namespace_id in {each[0] for each in queues}}
        return {queue: crews[queue[0]].of(queue[1]) for queue in queues}


def _is_stranded(waiting: Waiting, workers: list[Hello]) -> bool:
    """Whether no live worker takes it. Who takes activities of driven runs need not be known here."""
    is_ours = waiting.kind in WORKERS_KINDS
    return is_ours and not able(workers, waiting.kind, waiting.type, waiting.build_id)
