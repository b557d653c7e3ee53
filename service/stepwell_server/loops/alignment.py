"""Keeps the clock near the database's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.loops.loop import Loop

if TYPE_CHECKING:
    from stepwell_server.clock import SystemClock
    from stepwell_server.loops.connection import SharedConnection
    from stepwell_server.store.database import Database


class Alignment(Loop):
    """Asks the database for its time."""

    name = "alignment"

    def __init__(self, database: Database, connection: SharedConnection, clock: SystemClock, seconds: float) -> None:
        super().__init__(seconds)
        self._database = database
        self._connection = connection
        self._clock = clock

    async def run_once(self) -> int:
        """One question."""
        async with self._connection.use() as connection:
            self._clock.align(*await self._database.time(connection))
        return 1
