"""Partitions made ahead of need: the range in use, and the one after it, always have theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from stepwell_server.loops.loop import Loop
from stepwell_server.store import partitions
from stepwell_server.store.faults import Conflict, Rejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell_server.loops.connection import SharedConnection

_log = structlog.get_logger("stepwell.partitions")
_AHEAD = 1
_SOON_SECONDS = 2.0


class Partitions(Loop):
    """See the module."""

    name = "partitions"

    def __init__(
        self, connection: SharedConnection, seconds: float, may_run: Callable[[], bool] = lambda: True
    ) -> None:
        super().__init__(seconds, may_run)
        self._connection = connection
        self._hopeless: set[tuple[str, int]] = set()
        self._was_in_the_way = False

    def pause(self, done: int) -> float:
        """Short after somebody was in the way."""
        return min(_SOON_SECONDS, self._seconds) if self._was_in_the_way else super().pause(done)

    async def run_once(self) -> int:
        """Makes what is missing; answers how many."""
        self._was_in_the_way = False
        made = 0
        async with self._connection.use() as connection:
            current = await partitions.last_run_key(connection) // partitions.RUN_KEYS + 1
        for table in partitions.TABLES:
            async with self._connection.use() as connection:
                there = await partitions.read_partitions(connection, table)
            for number in range(current, current + _AHEAD + 1):
                if number not in there and (table, number) not in self._hopeless:
                    made += await self._make(table, number)
        return made

    async def _make(self, table: str, number: int) -> bool:
        try:
            async with self._connection.use() as connection:
                await partitions.add_partition(connection, table, number)
        except Conflict:
            self._was_in_the_way = True
            return False
        except Rejected as error:
            self._hopeless.add((table, number))
            _log.warning("rows stay in the default partition", table=table, number=number, cause=str(error))
            return False
        _log.info("partition made", table=table, number=number)
        return True
