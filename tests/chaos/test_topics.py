"""The service killed while an event is on its way to thousands: each gets it, once, in transactions of few."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from tests.chaos.kit import Stage, connected, free_port, until

from stepwell import Client, Context, Worker, workflow
from stepwell_server.model.events import EventType
from stepwell_server.model.runs import Phase

# One run that waits so many times. Its worker left it queued; the others sleep.
CLONES = (
    f"""
    INSERT INTO runs SELECT (jsonb_populate_record(r, jsonb_build_object(
        'run_key', r.run_key + n, 'run_id', gen_random_uuid(), 'queued', FALSE, 'phase', {int(Phase.SUSPENDED)}
    ))).* FROM runs AS r, generate_series(1, $1) AS n
    """,  # noqa: S608 - ours
    """
    INSERT INTO steps SELECT (jsonb_populate_record(s, jsonb_build_object('run_key', s.run_key + n))).*
    FROM steps AS s, generate_series(1, $1) AS n
    """,
    """
    INSERT INTO topic_waits SELECT (jsonb_populate_record(w, jsonb_build_object('run_key', w.run_key + n))).*
    FROM topic_waits AS w, generate_series(1, $1) AS n
    """,
)
# How many events came, how many to a run, and how many at most in one transaction.
HAD = "SELECT count(*) FROM events WHERE type = $1"
TIMES = "SELECT DISTINCT count(*) OVER (PARTITION BY run_key) FROM events WHERE type = $1"
AT_ONCE = "SELECT max(each) FROM (SELECT count(*) AS each FROM events WHERE type = $1 GROUP BY xmin::text) AS t"
RECEIVED = EventType.TOPIC_RECEIVED


@workflow
async def waits(ctx: Context) -> Any:
    return await ctx.wait_topic("paid")


async def _wait_once(client: Client, sql: asyncpg.Connection) -> str:
    """Starts a run, and lets its worker go when it waits; answers the run's id."""
    worker = Worker(client, "topics", workflows=[waits], drain_seconds=1)
    working = asyncio.create_task(worker.run())
    handle = await client.start_run(waits, task_queue="topics")
    await until(lambda: sql.fetchval("SELECT count(*) FROM topic_waits"))
    worker.shutdown()
    await working
    await until(lambda: sql.fetchval("SELECT session_id IS NULL FROM runs"))
    return handle.run_id


async def killed_on_the_way(scene: Stage, count: int) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    server = await scene.server(port)
    sql = await asyncpg.connect(scene.database_url, server_settings={"search_path": "stepwell"})
    async with connected(address) as (client,):
        run_id = await _wait_once(client, sql)
        for clone in CLONES:
            await sql.execute(clone, count - 1)
        await client.topics.publish("paid", "first")
        await client.topics.publish("paid", "second", retain=600)
        await until(lambda: sql.fetchval(f"{HAD} HAVING count(*) > 300", RECEIVED))
        await server.kill()
        had = await sql.fetchval(HAD, RECEIVED)
        assert 0 < had < count
        await scene.server(port)
        await until(lambda: sql.fetchval("SELECT NOT EXISTS (SELECT FROM topic_waits)"), 60)
        await until(lambda: sql.fetchval("SELECT bool_and(is_delivered) FROM topic_events"))
        assert await sql.fetchval(HAD, RECEIVED) == count
        assert [row[0] for row in await sql.fetch(TIMES, RECEIVED)] == [1]
        assert await sql.fetchval("SELECT count(DISTINCT payload) FROM events WHERE type = $1", RECEIVED) == 1
        assert await sql.fetchval(AT_ONCE, RECEIVED) <= 256
        assert await sql.fetchval("SELECT count(*) FROM tasks") == count
        assert [event.payload.json async for event in client.topics.events("paid")] == ['"second"']
        found = [event async for event in client.run(run_id).history() if event.type == "TopicReceived"]
        assert [event.payload.json for event in found] == ['"first"']
    await sql.close()


async def test_the_service_killed_while_an_event_is_on_its_way(scene: Stage) -> None:
    await killed_on_the_way(scene, 2_000)


@pytest.mark.long
async def test_the_service_killed_while_an_event_is_on_its_way_to_ten_thousand(scene: Stage) -> None:
    await killed_on_the_way(scene, 10_000)
