"""Postgres killed while programs ask by SQL and while that is dealt with: nothing is lost, nothing done twice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
from tests.chaos.kit import connect, free_port, until
from tests.chaos.test_database import kill, on_stage
from tests.inbox.kit import Seen, program, signal, start

TERMS = {"INBOX_POLL_SECONDS": "0.02", "LEADER_PROBE_SECONDS": "0.2", "LEADER_IDLE_SECONDS": "1"}
PROGRAMS, RUNS, STRIKES, BETWEEN = 3, 6, 3, 40
# The last is what asyncpg says of a connection whose end it has not understood yet.
GONE = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, asyncpg.InternalClientError)


class Shop:
    """Programs that note an order and ask for a run and a signal, each in one transaction of their own."""

    def __init__(self, url: str, run_ids: list[UUID]) -> None:
        self.url = url
        self.run_ids = run_ids
        self.asked = 0  # transactions whose commit was confirmed
        self._numbers = itertools.count()
        self._is_closing = False

    async def work(self) -> None:
        """Over connections that come and go. A transaction that was cut off is left: it happened, or it did not."""
        while not self._is_closing:
            try:
                async with program(self.url) as sql:
                    while not self._is_closing:
                        number = next(self._numbers)
                        async with sql.transaction():
                            await sql.execute("INSERT INTO orders VALUES ($1)", str(number))
                            await signal(sql, self.run_ids[number % RUNS], f"s{number}")
                            await start(sql, run_id=UUID(int=number + 1))
                        self.asked += 1
            except GONE:
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.work()) for _ in range(PROGRAMS)]
        try:
            yield
        finally:
            self._is_closing = True
            await asyncio.gather(*tasks)


async def test_postgres_killed_while_programs_ask_and_the_inbox_is_drained(tmp_path: Path, session_dir: Path) -> None:
    """Each order that is there has its signal and its run, once; one that is not there has neither."""
    ports = [free_port(), free_port()]
    async with on_stage(tmp_path, session_dir) as (postgres, scene):
        for port in ports:
            await scene.server(port, **TERMS)
        for port in ports:
            await (await connect(f"127.0.0.1:{port}")).close()
        run_ids = [uuid4() for _ in range(RUNS)]
        async with program(scene.database_url) as sql, sql.transaction():
            for run_id in run_ids:
                await start(sql, run_id=run_id)
        shop = Shop(scene.database_url, run_ids)
        async with shop.at_work():
            for _ in range(STRIKES):
                goal = shop.asked + BETWEEN
                await until(lambda goal=goal: shop.asked >= goal)  # type: ignore[misc]
                restarts = postgres.restart_count
                kill(postgres)
                await postgres.wait_restarted(restarts)
            goal = shop.asked + BETWEEN
            await until(lambda: shop.asked >= goal)
        async with program(scene.database_url) as sql:
            await until(lambda: _is_empty(sql))
            assert await Seen(sql).dead() == []
            orders = {int(row[0]) for row in await sql.fetch("SELECT name FROM orders")}
            assert len(orders) >= shop.asked
            assert set(await Seen(sql).runs()) == {*run_ids, *(UUID(int=number + 1) for number in orders)}
            found = await Seen(sql).signals()
            came = [name for run_id in run_ids for name in found[run_id]]
            assert sorted(came) == sorted(f"s{number}" for number in orders)


async def _is_empty(sql: asyncpg.Connection) -> bool:
    return await Seen(sql).waiting() == 0
