"""Prunes rows that have done their service.

Those are old batches and answers, heartbeats of ended activities, signals of ended runs, calls for which nobody waits,
events of topics whose time is over, what was published by runs that are there no more, whose turn it is under
concurrency limits that nobody is under, buckets of keys that are full again, and what outside engines noted of runs
that are not there.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from stepwell_server.loops.loop import Loop
from stepwell_server.store import concurrency, key_buckets, leftovers, topics
from stepwell_server.store.leftovers import Dispatched, Place, Registered, Value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stepwell_server.clock import Clock
    from stepwell_server.loops.connection import SharedConnection
    from stepwell_server.store.connection import Connection

# No watch cursor is older, and no commit stays unsettled for so long.
BATCH_AGE = timedelta(hours=1)
# For so long the repeat of a signal is recognised after its run has ended.
SIGNAL_AGE = timedelta(days=1)
# Whoever waits for a call takes its row away; what is older was left behind.
CALL_AGE = timedelta(minutes=1)
# For so long the repeat of a request is answered as the first was.
REQUEST_AGE = timedelta(days=1)
_ROWS = 2_000
_SLICES = 50
_BREATH_SECONDS = 0.02
AnyPlace = TypeVar("AnyPlace")


class Pruner(Loop):
    """See the module. A round is bounded; what is left waits for the next."""

    name = "pruner"

    def __init__(
        self, connection: SharedConnection, clock: Clock, seconds: float, may_run: Callable[[], bool] = lambda: True
    ) -> None:
        super().__init__(seconds, may_run)
        self._connection = connection
        self._clock = clock
        self._place = Place()
        self._value = Value()
        self._bucket = key_buckets.Place()
        self._dispatched: Dispatched | None = None
        self._registered: Registered | None = None

    async def run_once(self) -> int:
        """Answers how many rows went."""
        return (
            await self._prune_batches()
            + await self._prune_heartbeats()
            + await self._prune_signals()
            + await self._prune_run_calls()
            + await self._prune_requests()
            + await self._prune_topics()
            + await self._prune_published()
            + await self._prune_rounds()
            + await self._prune_key_buckets()
            + await self._prune_ledgers()
        )

    async def _prune_ledgers(self) -> int:
        dispatches, self._dispatched = await self._walk(leftovers.prune_dispatches, self._dispatched)
        keys, self._registered = await self._walk(leftovers.prune_idempotency_keys, self._registered)
        return dispatches + keys

    async def _walk(
        self,
        prune: Callable[[Connection, AnyPlace | None, datetime, int], Awaitable[tuple[int, AnyPlace | None]]],
        place: AnyPlace | None,
    ) -> tuple[int, AnyPlace | None]:
        """Prunes in slices from where the last round stopped; answers how many, and where the next one goes on."""
        pruned = 0
        for _ in range(_SLICES):
            async with self._connection.use() as connection:
                gone, place = await prune(connection, place, self._clock.now(), _ROWS)
            pruned += gone
            if place is None or not self.may_run():
                break
            await asyncio.sleep(_BREATH_SECONDS)
        return pruned, place

    async def _prune_topics(self) -> int:
        return await self._in_slices(topics.prune_events) + await self._in_slices(topics.prune_positions)

    async def _in_slices(self, prune: Callable[[Connection, datetime, int], Awaitable[int]]) -> int:
        """Prunes what was over by now."""
        pruned = 0
        for _ in range(_SLICES):
            async with self._connection.use() as connection:
                slice_ = await prune(connection, self._clock.now(), _ROWS)
            pruned += slice_
            if slice_ < _ROWS or not self.may_run():
                break
            await asyncio.sleep(_BREATH_SECONDS)
        return pruned

    async def _prune_published(self) -> int:
        # A slice a round: what is left of runs that went is little, and may wait its turn.
        async with self._connection.use() as connection:
            gone, place = await leftovers.prune_published(connection, self._value, _ROWS)
        self._value = place or Value()
        return gone

    async def _prune_rounds(self) -> int:
        async with self._connection.use() as connection:
            return await concurrency.prune_rounds(connection, _ROWS)

    async def _prune_key_buckets(self) -> int:
        pruned = 0
        for _ in range(_SLICES):
            async with self._connection.use() as connection:
                gone, place = await key_buckets.prune(connection, self._bucket, self._clock.now(), _ROWS)
            pruned += gone
            self._bucket = place or key_buckets.Place()
            if place is None or not self.may_run():
                break
            await asyncio.sleep(_BREATH_SECONDS)
        return pruned

    async def _prune_run_calls(self) -> int:
        # Callers wait by the machines' clocks, which a test's clock does not move.
        async with self._connection.use() as connection:
            return await leftovers.prune_run_calls(connection, datetime.now(UTC) - CALL_AGE, _ROWS)

    async def _prune_requests(self) -> int:
        pruned = 0
        for _ in range(_SLICES):
            async with self._connection.use() as connection:
                slice_ = await leftovers.prune_requests(connection, self._clock.now() - REQUEST_AGE, _ROWS)
            pruned += slice_
            if slice_ < _ROWS or not self.may_run():
                break
            await asyncio.sleep(_BREATH_SECONDS)
        return pruned

    async def _prune_signals(self) -> int:
        async with self._connection.use() as connection:
            return await leftovers.prune_signals(connection, self._clock.now() - SIGNAL_AGE, _ROWS)

    async def _prune_batches(self) -> int:
        pruned = 0
        for _ in range(_SLICES):
            # Ids hold the time of the machines that made them, which a test's clock does not move.
            made_before, committed_before = datetime.now(UTC) - BATCH_AGE, self._clock.now() - BATCH_AGE
            async with self._connection.use() as connection:
                slice_ = await leftovers.prune_batches(connection, made_before, committed_before, _ROWS)
            pruned += slice_
            if slice_ < _ROWS or not self.may_run():
                break
            await asyncio.sleep(_BREATH_SECONDS)
        return pruned

    async def _prune_heartbeats(self) -> int:
        pruned = 0
        for _ in range(_SLICES):
            async with self._connection.use() as connection:
                gone, place = await leftovers.prune_heartbeats(connection, self._place, _ROWS)
            pruned += gone
            self._place = place or Place()
            if place is None or not self.may_run():
                break
            await asyncio.sleep(_BREATH_SECONDS)
        return pruned
