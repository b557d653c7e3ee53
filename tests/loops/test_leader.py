"""One leads. Whoever has lost the lock, or can't know, does nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from tests.loops.rig import rig_settings

from stepwell_server.clock import SystemClock
from stepwell_server.loops.leader import Leader
from stepwell_server.loops.loop import Loop
from stepwell_server.store import migrations
from stepwell_server.store.database import Database

QUICK = {"leader_probe_seconds": 0.1, "leader_idle_seconds": 1.0}


class Duty(Loop):
    """Notes its rounds."""

    name = "duty"

    def __init__(self, leader: Leader) -> None:
        super().__init__(0.02, leader.is_leading)
        self.rounds = 0
        self.came = asyncio.Event()

    async def run_once(self) -> int:
        self.rounds += 1
        self.came.set()
        return 1

    async def wait_round(self) -> None:
        self.came.clear()
        async with asyncio.timeout(60):
            await self.came.wait()


class Late(SystemClock):
    """A clock that says so when it is told that time has passed unnoticed."""

    __slots__ = ("ahead",)

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


@asynccontextmanager
async def leaders(url: str, *others: dict[str, Any]) -> AsyncIterator[list[tuple[Leader, Duty, Late]]]:
    made: list[tuple[Leader, Duty, Late]] = []
    databases: list[Database] = []
    for fields in ({}, *others):
        settings = rig_settings(url, **{**QUICK, **fields})
        databases.append(Database(settings))
        clock = Late()
        leader = Leader(databases[-1], clock, settings)
        duty = Duty(leader)
        leader.duties = [duty]
        made.append((leader, duty, clock))
    try:
        yield made
    finally:
        for leader, _, _ in made:
            await leader.stop()
        for database in databases:
            await database.close()


async def elected(leader: Leader) -> int:
    async with asyncio.timeout(60):
        return (await leader.wait_elected()).epoch


async def test_one_leads_and_hands_over_when_it_stops(database_url: str) -> None:
    async with leaders(database_url, {}) as ((first, duty, _), (second, other, _)):
        first.start()
        assert await elected(first) == 1
        await duty.wait_round()
        assert await second.run_once() == 0
        second.start()
        await first.stop()
        assert await elected(second) == 2
        await other.wait_round()
        assert not first.is_leading()
        rounds = duty.rounds
        await other.wait_round()
        assert duty.rounds == rounds


async def test_another_leads_when_the_backend_is_killed(database_url: str) -> None:
    async with leaders(database_url, {}) as ((first, duty, _), (second, other, _)):
        first.start()
        await elected(first)
        assert first.term is not None
        second.start()
        # Elections are a matter of luck: the one that lost the lock must not win it back here.
        first.may_run = lambda: False
        sql = await asyncpg.connect(database_url)
        await sql.execute("SELECT pg_terminate_backend($1)", first.term.backend)
        await sql.close()
        assert await elected(second) == 2
        await other.wait_round()
        first.may_run = lambda: True
        assert await first.run_once() == 0
        assert first.term is None
        rounds = duty.rounds
        await other.wait_round()
        assert duty.rounds == rounds


async def test_postgres_drops_a_leader_that_is_silent(database_url: str) -> None:
    """Its duties stop by themselves before, and begin anew only with a new election."""
    async with leaders(database_url, {}) as ((first, duty, _), (second, _, _)):
        first.start()
        await elected(first)
        await duty.wait_round()
        first.may_run = lambda: False  # as if frozen: it probes no more
        second.start()
        assert await elected(second) == 2
        assert not first.is_leading()
        assert first.term is not None
        rounds = duty.rounds
        first.may_run = lambda: True
        assert await first.run_once() == 0
        now = first.term
        assert now is None
        assert duty.rounds == rounds


async def test_nobody_leads_where_nothing_can_be_written(database_url: str) -> None:
    """Workers' signs of life are not written then, so nobody may hold their silence against them."""
    async with leaders(database_url) as ((first, _, _),):
        assert await first.run_once() == 1
        assert await first.run_once() == 1
        connection = first._connection
        assert connection is not None
        await connection.raw.execute("SET default_transaction_read_only = on")
        assert await first.run_once() == 0
        assert first.term is None


async def test_a_late_leader_does_nothing(database_url: str) -> None:
    """Time has passed unnoticed, as in a suspended machine: the proof is worth nothing, whatever the lock says."""
    async with leaders(database_url) as ((first, duty, clock),):
        first.start()
        await elected(first)
        await duty.wait_round()
        clock.ahead = 0.95
        assert not first.is_leading()
        assert await elected(first) in {1, 2}
        async with asyncio.timeout(60):
            while first.term is None or first.term.epoch == 1:  # noqa: ASYNC110 - the loop elects itself anew
                await asyncio.sleep(0.01)
        assert first.led_seconds() < 5
        await duty.wait_round()


async def test_deployments_do_not_block_each_other(database_url: str) -> None:
    await migrations.migrate(database_url, schema="second")
    async with leaders(database_url, {"STEPWELL_SCHEMA": "second"}) as ((first, _, _), (second, _, _)):
        first.start()
        second.start()
        assert (await elected(first), await elected(second)) == (1, 1)
        assert first.is_leading()
        assert second.is_leading()
