"""The service killed in the middle of a clean-up and of an archiving: each run is whole or gone, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.chaos.kit import Stage, connected, free_port, until

from stepwell import Client, ServiceError

# One ended run so many times, each with an id and a name of its own.
CLONES = (
    """
    INSERT INTO closed_runs SELECT (jsonb_populate_record(r, jsonb_build_object(
        'run_key', r.run_key + 1000000 + n, 'run_id', md5(n::text)::uuid, 'workflow_id', 'w' || n
    ))).* FROM closed_runs AS r, generate_series(1, $1) AS n
    """,
    """
    INSERT INTO events SELECT (jsonb_populate_record(e, jsonb_build_object('run_key', e.run_key + 1000000 + n))).*
    FROM events AS e, generate_series(1, $1) AS n WHERE e.run_key = (SELECT min(run_key) FROM closed_runs)
    """,
    "INSERT INTO run_ids SELECT run_id, namespace_id, run_key FROM closed_runs ON CONFLICT DO NOTHING",
    "INSERT INTO workflow_ids SELECT workflow_id, namespace_id, run_key FROM closed_runs ON CONFLICT DO NOTHING",
)
# Rows of ended runs of which not all is there. Those that were archived have no history, and say so in their details.
HALF = """
    SELECT run_key FROM (
        SELECT run_key, last_event, details, (SELECT count(*) FROM events AS e WHERE e.run_key = c.run_key) AS events,
            (SELECT count(*) FROM run_ids AS i WHERE i.run_key = c.run_key) AS ids,
            (SELECT count(*) FROM workflow_ids AS w WHERE w.run_key = c.run_key) AS names
        FROM closed_runs AS c
    ) AS r
    WHERE ids <> 1 OR names <> 1 OR events NOT IN (last_event, 0) OR (events = 0) <> (details IS NOT NULL)
"""
# Rows of runs that are not there.
STRAY = """
    SELECT run_key FROM (SELECT run_key FROM events UNION SELECT run_key FROM run_ids UNION
        SELECT run_key FROM workflow_ids) AS x
    WHERE run_key NOT IN (SELECT run_key FROM closed_runs UNION SELECT run_key FROM runs)
"""


async def later() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


async def total(parts: AsyncIterator[int]) -> int:
    return sum([count async for count in parts])


async def _given_up(work: Awaitable[Any]) -> None:
    """Whoever asked hears that the service went."""
    with contextlib.suppress(ServiceError, asyncio.CancelledError):
        await work


async def _whole_or_gone(sql: asyncpg.Connection) -> None:
    assert await sql.fetch(HALF) == []
    assert await sql.fetch(STRAY) == []


async def _ended(client: Client, sql: asyncpg.Connection, count: int) -> None:
    """So many ended runs, and an open one."""
    handle = await client.start_run("t", {"text": "x" * 200}, workflow_id="w0", task_queue="held")
    await handle.terminate()
    for clone in CLONES:
        await sql.execute(clone, *((count - 1,) if "$1" in clone else ()))
    await client.start_run("t", workflow_id="open", task_queue="held")


@pytest.fixture
async def sql(scene: Stage) -> AsyncIterator[asyncpg.Connection]:
    made = await asyncpg.connect(scene.database_url, server_settings={"search_path": "stepwell"})
    yield made
    await made.close()


@asynccontextmanager
async def _one_held(scene: Stage) -> AsyncIterator[None]:
    """Locks an ended run: who works through them all has not done so before it is killed, however slow the test is."""
    other = await asyncpg.connect(scene.database_url, server_settings={"search_path": "stepwell"})
    try:
        async with other.transaction():
            await other.execute("SELECT FROM closed_runs ORDER BY run_key DESC LIMIT 1 FOR UPDATE")
            yield
    finally:
        await other.close()


async def test_killed_in_the_middle_of_a_clean_up(scene: Stage, sql: asyncpg.Connection) -> None:
    count, port = 2_000, free_port()
    server = await scene.server(port)
    async with connected(f"127.0.0.1:{port}") as (client,):
        await _ended(client, sql, count)
        async with _one_held(scene):
            cleaning = asyncio.create_task(total(client.retention.clean_up(await later())))
            await until(lambda: sql.fetchval("SELECT count(*) < $1 FROM closed_runs", count - 300))
            await server.kill()
        left = await sql.fetchval("SELECT count(*) FROM closed_runs")
        assert 0 < left < count
        await _whole_or_gone(sql)
        cleaning.cancel()
        await _given_up(cleaning)
        await scene.server(port)
        assert await total(client.retention.clean_up(await later())) <= left
        await until(lambda: sql.fetchval("SELECT NOT EXISTS (SELECT FROM closed_runs)"))
        await _whole_or_gone(sql)
        assert [run.workflow_id async for run in client.list_runs()] == ["open"]


async def test_killed_in_the_middle_of_an_archiving(scene: Stage, sql: asyncpg.Connection, tmp_path: Path) -> None:
    count, port, folder = 60, free_port(), tmp_path / "archive"
    server = await scene.server(port, ARCHIVE_FOLDER=str(folder))
    async with connected(f"127.0.0.1:{port}") as (client,):
        await _ended(client, sql, count)
        await client.update_namespace("main", archive_url=f"file://{folder}")
        purged = "SELECT count(*) FROM closed_runs WHERE details IS NOT NULL"
        async with _one_held(scene):
            archiving = asyncio.create_task(total(client.retention.archive(await later())))
            await until(lambda: sql.fetchval(f"SELECT ({purged}) > 20"))
            await server.kill()
        done = await sql.fetchval(purged)
        assert 20 < done < count
        await _whole_or_gone(sql)
        await _written(sql, folder)
        archiving.cancel()
        await _given_up(archiving)
        await scene.server(port, ARCHIVE_FOLDER=str(folder))
        assert await total(client.retention.archive(await later())) <= count - done
        await until(lambda: sql.fetchval(f"SELECT ({purged}) = $1", count))
        await _whole_or_gone(sql)
        assert await _written(sql, folder) == count
        open_run = await client.run(workflow_id="open").describe()
        assert (open_run.archive_uri, open_run.event_count) == ("", 1)


async def _written(sql: asyncpg.Connection, folder: Path) -> int:
    """Sees that what is here no more is there, with its whole history; answers how many."""
    rows = await sql.fetch("SELECT run_id, last_event FROM closed_runs WHERE details IS NOT NULL")
    for run_id, last_event in rows:
        told = json.loads((folder / "main" / f"{run_id}.json").read_bytes())
        assert [event["number"] for event in told["events"]] == list(range(1, last_event + 1))
    return len(rows)
