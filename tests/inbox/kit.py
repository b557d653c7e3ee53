"""A program with transactions of its own, a replica's inside that deals with what they ask for, and looks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
from tests.engine.replica import Replica, replica

from stepwell_server.clock import SystemClock
from stepwell_server.loops.connection import SharedConnection
from stepwell_server.loops.inbox import Inbox

FUNCTIONS = "stepwell.stepwell_start, stepwell.stepwell_signal, stepwell.stepwell_complete_step"


class Consumer:
    """One replica's loop, which the test turns."""

    def __init__(self, server: Replica) -> None:
        self.server = server
        self._connection = SharedConnection(server.database)
        self.loop = Inbox(self._connection, server.committers, SystemClock(), 0.05)

    async def drain(self) -> int:
        """Rounds until one finds nothing; answers how much was dealt with."""
        done = 0
        while came := await self.loop.run_once():
            done += came
        return done

    async def close(self) -> None:
        await self._connection.close()


@asynccontextmanager
async def consumer(url: str, **settings: Any) -> AsyncIterator[Consumer]:
    async with replica(url, **settings) as server:
        made = Consumer(server)
        try:
            yield made
        finally:
            await made.close()


@asynccontextmanager
async def program(url: str, **options: Any) -> AsyncIterator[asyncpg.Connection]:
    """A connection of a program that knows nothing of the service's schema, with a table of its own."""
    connection = await asyncpg.connect(url, **options)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS orders (name text PRIMARY KEY)")
        yield connection
    finally:
        connection.terminate()


async def start(connection: asyncpg.Connection, **fields: Any) -> UUID:
    given = {"type": "flow", **fields}
    names = ", ".join(f"{name} => ${place}" for place, name in enumerate(given, start=1))
    run_id: UUID = await connection.fetchval(f"SELECT stepwell.stepwell_start({names})", *given.values())
    return run_id


async def signal(connection: asyncpg.Connection, run_id: UUID, name: str, **fields: Any) -> int:
    given = {"run_id": run_id, "signal_name": name, **fields}
    names = ", ".join(f"{name} => ${place}" for place, name in enumerate(given, start=1))
    number: int = await connection.fetchval(f"SELECT stepwell.stepwell_signal({names})", *given.values())
    return number


class Seen:
    """What is there in the end."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def runs(self) -> dict[UUID, str]:
        """All runs with their workflow ids."""
        rows = await self._connection.fetch(
            "SELECT run_id, workflow_id FROM stepwell.runs "
            "UNION ALL SELECT run_id, workflow_id FROM stepwell.closed_runs"
        )
        return {row[0]: row[1] for row in rows}

    async def signals(self) -> dict[UUID, list[str]]:
        """The names of the signals of each run, in the order of their arrival."""
        found: dict[UUID, list[str]] = defaultdict(list)
        query = """
            SELECT r.run_id, s.name FROM stepwell.signals AS s JOIN stepwell.runs AS r USING (run_key)
            ORDER BY r.run_key, s.ordinal
        """
        for row in await self._connection.fetch(query):
            found[row[0]].append(row[1])
        return found

    async def waiting(self) -> int:
        count: int = await self._connection.fetchval("SELECT count(*) FROM stepwell.inbox")
        return count

    async def dead(self) -> list[tuple[str, str]]:
        """The names and reasons of dead letters."""
        rows = await self._connection.fetch("SELECT name, reason FROM stepwell.dead_letters ORDER BY number")
        return [(row[0], row[1]) for row in rows]
