"""A committer's link to the database: its connection, the number it counts its batches under, and keys for new runs."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

import structlog

from stepwell_server.engine.committer.waiting import without_late
from stepwell_server.store import batch_reads, batches
from stepwell_server.store.faults import Conflict, Lost, Rejected, Unsettled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from stepwell_server.clock import Clock
    from stepwell_server.engine.committer.waiting import Entry, Waiting
    from stepwell_server.settings import Settings
    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database
    from stepwell_server.store.lineage import Timeline

_log = structlog.get_logger("stepwell.committer")
SETTLE_SECONDS = 30.0
_FIRST_PAUSE = 0.05


class Link:
    """One committer's; made again when it is lost."""

    def __init__(self, database: Database, settings: Settings, waiting: Waiting, place: int, key_step: int) -> None:
        self._database = database
        self._longest_pause = settings.reconnect_seconds_maximum
        self._waiting = waiting
        self._place = place
        self._key_step = key_step
        self._connection: Connection | None = None
        self._keys: Iterator[int] = iter(())
        self._spare_keys = 0
        self._timeline: Timeline | None = None
        self._last_known: tuple[int, int] | None = None  # a batch that must be there, unless commits were lost
        self.number = 0
        self.position = 0

    async def connected(self, entries: Sequence[Entry] = (), until: float = math.inf) -> Connection:
        """The connection, made anew however long that takes.

        Whoever can't wait, of the entries and of what waits, is told. Raises Lost after `until`.
        """
        pause = _FIRST_PAUSE
        while self._connection is None or self._connection.closed:
            try:
                self._connection = await self._database.connect("committer")
                self._look_at(self._connection)
            except Lost:
                without_late([*entries, *self._waiting])
                if time.monotonic() >= until:
                    raise
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._longest_pause)
        return self._connection

    def _look_at(self, connection: Connection) -> None:
        """A standby that was promoted may not know of all that was taken from sequences: none of it is used again."""
        if connection.timeline != self._timeline:
            if self._timeline is not None and self.position:
                self._last_known = (self.number, self.position)
            self._timeline = connection.timeline
            self._keys, self._spare_keys = iter(()), 0
            self.forget_number()

    async def lacks_commits(self, connection: Connection) -> bool:
        """Whether what was committed last did not come along when the database went from one server to another.

        What is there of one committer's commits is there of all others' until then, for they are of one log.
        """
        if self._last_known is None:
            return False
        found = await batches.is_there(connection, *self._last_known)
        self._last_known = None
        if not found:
            _log.error("commits are lost", advice="they were acknowledged and not on the standby that was promoted")
        return not found

    async def rest(self, losses: int) -> None:
        """Pauses if not even a new connection has helped: there is a database, and it takes no writes."""
        if losses:
            await asyncio.sleep(min(_FIRST_PAUSE * 2**losses, self._longest_pause))

    async def drop(self) -> None:
        """Closes the connection; the next is another."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def have_number(self, connection: Connection) -> None:
        """Takes a number, unless there is one."""
        if not self.number:
            self.number, self.position = await batches.take_committer_number(connection), 0

    def forget_number(self) -> None:
        """A batch under it may be committed yet, out of turn: what follows counts from the start under another."""
        self.number = 0

    async def settle(self, batch_id: UUID, clock: Clock) -> bool | None:
        """Whether a batch of unknown outcome was committed; if not, it never will be. None: not found out in time."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            try:
                connection = await self.connected(until=deadline)
                return await batches.settle(connection, batch_id, clock.now())
            except (Lost, Conflict, Rejected, Unsettled):
                await self.drop()
                await asyncio.sleep(_FIRST_PAUSE)
        return None

    async def have_keys(self, connection: Connection, count: int) -> None:
        """Keys for as many runs as a batch may start, those of a block that lead to this committer.

        Gaps do no harm: between them, and where a block is lost in a crash.
        """
        while self._spare_keys < count:
            block = await batch_reads.take_run_keys(connection)
            taken = block[(self._place - block.start) % self._key_step :: self._key_step]
            self._keys = iter([*self._keys, *taken])
            self._spare_keys += len(taken)

    def next_key(self) -> int:
        """The next of those that `have_keys` took."""
        self._spare_keys -= 1
        return next(self._keys)
