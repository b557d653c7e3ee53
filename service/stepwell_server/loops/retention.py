"""Retention: jobs and runs that ended long enough ago go, in slices, and what was their place with them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from stepwell_server import telemetry
from stepwell_server.loops.loop import Loop
from stepwell_server.refusals import Refusal
from stepwell_server.store import archives, leftovers, partitions, removal
from stepwell_server.store.faults import Conflict, in_our_words
from stepwell_server.store.removal import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stepwell_server.clock import Clock
    from stepwell_server.loops.connection import SharedConnection
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import NamespaceRow, Namespaces
    from stepwell_server.store.removal import Cleaned

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
            await drop_empty(self._connection, partitions.JOB_TABLES)
        return forgotten


class RunRetention(Loop):
    """Archives, or deletes, runs of namespaces that keep them for a time. A round is bounded; the next goes on there.

    What an archive refuses is tried again in the next round: nothing is deleted that was to be archived.
    """

    name = "run retention"

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        database: Database,
        namespaces: Namespaces,
        connection: SharedConnection,
        clock: Clock,
        seconds: float,
        folder: Path | None,
        may_run: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(seconds, may_run)
        self._database = database
        self._namespaces = namespaces
        self._connection = connection
        self._clock = clock
        self._folder = folder
        self._places: dict[int, int] = {}

    def pause(self, done: int) -> float:
        """None, if a round could not take all."""
        return 0.0 if self._places and done else super().pause(done)

    async def run_once(self) -> int:
        """Answers how many runs went, or were archived."""
        with in_our_words():
            kept = await self._namespaces.kept_for_a_time()
        self._places = {row.namespace_id: self._places.get(row.namespace_id, 0) for row in kept}
        gone = 0
        for row in kept:
            gone += await self._retain(row)
        self._places = {namespace_id: place for namespace_id, place in self._places.items() if place}
        if not self._places:
            await drop_empty(self._connection, partitions.RUN_TABLES)
        return gone

    async def _retain(self, row: NamespaceRow) -> int:
        gone = 0
        for _ in range(_SLICES):
            if not self.may_run():
                break
            try:
                with in_our_words():
                    cleaned = await self._slice(row)
            except Refusal as error:
                _log.warning("runs were not archived", namespace=row.name, cause=str(error))
                self._places[row.namespace_id] = 0
                break
            gone += cleaned.runs
            self._places[row.namespace_id] = cleaned.after or 0
            if cleaned.after is None:
                break
            await asyncio.sleep(_BREATH_SECONDS)
        return gone

    async def _slice(self, row: NamespaceRow) -> Cleaned:
        now = self._clock.now()
        wanted = Wanted(row.namespace_id, now - timedelta(seconds=row.retention_seconds or 0.0))
        place, archive = self._places[row.namespace_id], archives.archive_of(row, self._folder)
        if archive is None:
            cleaned = await removal.clean_up(self._database, wanted, place, removal.RUNS_AT_ONCE)
        else:
            cleaned = await archives.archive_runs(self._database, archive, wanted, place, removal.RUNS_AT_ONCE, now)
        telemetry.metrics.retained_runs.labels("deleted" if archive is None else "archived").inc(cleaned.runs)
        return cleaned


async def drop_empty(shared: SharedConnection, tables: Sequence[str]) -> None:
    """Drops partitions of ranges that no key comes from any more, once nothing is left in them."""
    async with shared.use() as connection:
        current = await partitions.last_run_key(connection) // partitions.RUN_KEYS + 1
    for table in tables:
        async with shared.use() as connection:
            there = await partitions.read_partitions(connection, table)
        for number in sorted(there):
            # A committer may still have a block of keys from the range before.
            if number < current - 1:
                await _drop(shared, table, number)


async def _drop(shared: SharedConnection, table: str, number: int) -> None:
    try:
        async with shared.use() as connection:
            dropped = await partitions.drop_partition_if_empty(connection, table, number)
    except Conflict:
        return
    if dropped:
        _log.info("partition dropped", table=table, number=number)
