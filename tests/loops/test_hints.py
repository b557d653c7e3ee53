"""Hints reach other replicas, and only them; a lost connection is opened again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from tests.loops.rig import rig_settings

from stepwell_server.store import hints as hints_module
from stepwell_server.store.database import Database
from stepwell_server.store.hints import Hints


class Ear:
    def __init__(self, hints: Hints) -> None:
        self.heard: asyncio.Queue[tuple[str, object]] = asyncio.Queue()
        hints.subscribe(lambda kind, data: self.heard.put_nowait((kind, data)))

    async def next(self) -> tuple[str, object]:
        async with asyncio.timeout(60):
            return await self.heard.get()


@asynccontextmanager
async def replicas(url: str, *schemas: str) -> AsyncIterator[tuple[Database, list[tuple[Hints, Ear]]]]:
    database = Database(rig_settings(url))
    made = []
    for schema in schemas:
        hints = Hints(database, schema)
        made.append((hints, Ear(hints)))
        hints.start()
        await hints.wait_listening()
    for (hints, _), schema in zip(made, schemas, strict=True):
        if schemas.count(schema) > 1:
            async with asyncio.timeout(60):
                await hints.wait_company()
    try:
        yield database, made
    finally:
        for hints, _ in made:
            await hints.stop()
        await database.close()


async def test_hints_reach_the_other_replica(database_url: str) -> None:
    async with replicas(database_url, "stepwell", "stepwell", "other") as (_, ((one, here), (two, there), (_, far))):
        one.publish("tasks", [[1, "q", 1, "wf"]])
        two.publish("run", ["x", 5])
        assert await there.next() == ("tasks", [[1, "q", 1, "wf"]])
        assert await here.next() == ("run", ["x", 5])
        assert here.heard.empty()
        assert there.heard.empty()
        assert far.heard.empty()


async def test_who_is_alone_sends_none(database_url: str) -> None:
    """Each would be a commit. A sign goes out when one begins to listen, which the other answers."""
    async with replicas(database_url, "s") as (_, ((one, here),)):
        for number in range(10):
            one.publish("task", number)
        assert not one._waiting
        async with replicas(database_url, "s") as (_, ((two, _),)), asyncio.timeout(60):
            await asyncio.gather(one.wait_company(), two.wait_company())
            two.publish("hello")
            assert await here.next() == ("hello", None)


async def test_who_is_silent_for_long_is_gone(database_url: str) -> None:
    async with replicas(database_url, "s", "s") as (_, ((one, here), (two, _))):
        for _ in range(hints_module._SILENT_PROBES):
            one._probed()
        two.publish("still here")
        assert await here.next() == ("still here", None)
        for _ in range(hints_module._SILENT_PROBES + 1):
            one._probed()
        assert not one._company.is_set()


async def test_hints_gather(database_url: str) -> None:
    """Alike ones are one; what is too long for one NOTIFY goes in several; what no NOTIFY can carry is left out."""
    async with replicas(database_url, "s", "s") as (database, ((one, _), (_, there))):
        before = database.counters.statements
        for number in range(1000):
            one.publish("task", "same")
            one.publish("long", str(number) * 20)
        one.publish("far too long", "x" * 10_000)
        one.publish("last")
        kinds = []
        while (told := await there.next())[0] != "last":
            kinds.append(told[0])
        assert kinds.count("task") == 1
        assert kinds.count("long") == 1000
        assert "far too long" not in kinds
        assert database.counters.statements - before < 30


async def test_hints_survive_a_killed_backend(database_url: str) -> None:
    async with replicas(database_url, "s", "s") as (_, ((one, _), (two, there))):
        killed = two.backend
        sql = await asyncpg.connect(database_url)
        await sql.execute("SELECT pg_terminate_backend($1)", killed)
        await sql.close()
        async with asyncio.timeout(60):
            while two.backend == killed:  # noqa: ASYNC110 - it reconnects by itself
                await asyncio.sleep(0.01)
        await two.wait_listening()
        one.publish("again")
        assert await there.next() == ("again", None)


def faulty(kind: str, data: object) -> None:
    raise ValueError(kind, data)


async def test_a_faulty_subscriber_deafens_nobody(database_url: str) -> None:
    async with replicas(database_url, "s", "s") as (_, ((one, _), (two, _))):
        two._callbacks.insert(0, faulty)
        later = Ear(two)
        one.publish("x")
        assert await later.next() == ("x", None)
