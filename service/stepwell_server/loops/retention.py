"""Retention: jobs that ended long enough ago are forgotten, in slices, and what was their place with them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from stepwell_server.loops.loop import Loop
from stepwell_server.store import leftovers, partitions
from stepwell_server.store.database import Conflict

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell_server.clock import Clock
    from stepwell_server.loops.connection import SharedConnection

_log = structlog.get_logger("stepwell.retention")
_ROWS = 1_000
_SLICES = 50
_BREATH_SECONDS = 0.02


class JobRetention(Loop):
    """See the module. A round is bounded; what is left waits for the next, which comes at once."""

    name = "job retention"

    def __init__(
        self, connection: SharedConnection, clock: Clock, seconds: float, may_run: Callable[[], bool] = lambda: True
    ) -> None:
        super().__init__(seconds, may_run)
        self._connection = connection
        self._clock = clock
        self._has_more = False

    def pause(self, done: int) -> float:
        """None, if a round could not take all."""
        return 0.0 if self._has_more and done else super().pause(done)

    async def run_once(self) -> int:
        """Answers how many jobs were forgotten."""
        forgotten = 0
        for _ in range(_SLICES):
            async with self._connection.use() as connection:
                slice_ = await leftovers.prune_jobs(connection, self._clock.now(), _ROWS)
            forgotten += slice_
            self._has_more = slice_ == _ROWS
            if not self._has_more or not self.may_run():
                break
            await asyncio.sleep(_BREATH_SECONDS)
        if not self._has_more:
            await self._drop_empty()
        return forgotten

    async def _drop_empty(self) -> None:
        """Drops partitions of ranges that no key comes from any more, once nothing is left in them."""
        async with self._connection.use() as connection:
            current = await partitions.last_run_key(connection) // partitions.RUN_KEYS + 1
        for table in partitions.JOB_TABLES:
            async with self._connection.use() as connection:
                there = await partitions.read_partitions(connection, table)
            for number in sorted(there):
                # A committer may still have a block of keys from the range before.
                if number < current - 1:
                    await self._drop(table, number)

    async def _drop(self, table: str, number: int) -> None:
        try:
            async with self._connection.use() as connection:
                dropped = await partitions.drop_partition_if_empty(connection, table, number)
        except Conflict:
            return
        if dropped:
            _log.info("partition dropped", table=table, number=number)
