"""The service killed while a slot of a concurrency limit is free and a run waits for it: the next leader lets it go."""

from __future__ import annotations

import asyncpg
from tests.chaos.kit import Stage, connected, free_port, until

from stepwell import Concurrency
from stepwell_server.model.concurrency import Line

MOST, KEY = 2, "k"
LOCK = "SELECT pg_advisory_lock(hashtext('stepwell concurrency ' || current_schema()), $1)"
UNLOCK = "SELECT pg_advisory_unlock_all()"
STANDS = """
SELECT count(*) FILTER (WHERE admit_time IS NOT NULL) AS held, count(*) FILTER (WHERE admit_time IS NULL) AS waiting
FROM concurrency_slots
"""


async def stands(sql: asyncpg.Connection) -> tuple[int, int]:
    row = await sql.fetchrow(STANDS)
    assert row is not None
    return row["held"], row["waiting"]


async def test_killed_between_an_end_and_the_next_in_line(scene: Stage) -> None:
    """Whoever gives out slots is kept from it, so that the service dies with the ends committed and nobody let in."""
    port = free_port()
    server = await scene.server(port)
    sql = await asyncpg.connect(scene.database_url, server_settings={"search_path": "stepwell"})
    async with connected(f"127.0.0.1:{port}") as (client,):
        limit = Concurrency(key=KEY, maximum_runs=MOST)
        runs = [await client.start_run("anything", concurrency=limit) for _ in range(5)]

        async def found(held: int, waiting: int) -> bool:
            return await stands(sql) == (held, waiting)

        await until(lambda: found(MOST, 3))
        await sql.fetchval(LOCK, Line(1, "default", KEY).stripe)
        await runs[0].terminate()
        await runs[1].terminate()
        assert await stands(sql) == (0, 3)
        await server.kill()
        await sql.execute(UNLOCK)
        assert await stands(sql) == (0, 3)
        await scene.server(port)
        await until(lambda: found(MOST, 1))
        assert [(await run.describe()).HasField("task_wait") for run in runs[2:]] == [True, True, False]
    await sql.close()
