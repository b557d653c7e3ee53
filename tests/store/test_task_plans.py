"""Claims and looks at queues cost what they bring, however much waits: on an empty table and on a grown one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from tests.store.filled import Filled
from tests.store.plans import explained, scans

from stepwell_server.settings import Settings
from stepwell_server.store import batch_reads, task_queues
from stepwell_server.store.claim_floors import Floors
from stepwell_server.store.connection import Connection
from stepwell_server.store.database import Database

GROWN = 100_000
INDEX, ROWS = ("tasks", "tasks_build_idx"), ("tasks", "tasks_pkey")
# Ten types in turn, a tenth of each pinned: twenty sorts.
GROW = f"""
INSERT INTO tasks
SELECT
    n, 0, 1, 'q', 1, 't' || (n % 10), n % 7, now() + n * interval '1 ms', CASE WHEN n % 100 < 10 THEN 'v1' ELSE '' END
FROM generate_series(1, {GROWN}) AS n;
ANALYZE tasks;
"""  # noqa: S608 - a number from above
TYPES = [f"t{number}" for number in range(10)]
NOW = datetime.now(UTC)


def claim_of(*builds: str) -> list[Any]:
    """What a claim of 16 tasks of all types asks that knows nothing of its queue."""
    walks = Floors().walks((1, "q", 1), [(type_, build) for type_ in TYPES for build in builds], NOW)
    return [1, "q", 1, 16, 48, *map(list, zip(*walks, strict=True))]


@asynccontextmanager
async def connected(url: str, *, pinned: bool) -> AsyncIterator[tuple[Database, Connection]]:
    """A connection as the hot path has it, or with the planner left as it is."""
    database = Database(Settings(database_url=url))
    connection = await database.connect(pinned=pinned)
    try:
        yield database, connection
    finally:
        await connection.close()
        await database.close()


@pytest.mark.parametrize("is_grown", [False, True], ids=["empty", "grown"])
async def test_a_claim_reads_candidates_alone_and_locks_what_it_takes(filled: Filled, is_grown: bool) -> None:
    async with filled.connected(*[GROW] * is_grown, pinned=True) as connection:
        plan = await explained(connection.raw, batch_reads.TASKS["claim_tasks"], *claim_of("", "v1"))
        read = scans(plan)
        assert set(read) == {INDEX, ROWS}
        assert read[INDEX] <= 48 * len(TYPES) * 2
        assert read[ROWS] == (16 if is_grown else 0)
        (locks,) = (part for part in plan.parts() if part.kind == "LockRows")
        assert locks.rows == (16 if is_grown else 0)


async def test_a_claim_for_a_build_of_which_nothing_waits_reads_nothing(filled: Filled) -> None:
    """Ten thousand runs that are pinned elsewhere are not in its way."""
    pinned = "UPDATE tasks SET build_id = 'v1'"
    async with filled.connected(GROW, pinned, "VACUUM ANALYZE tasks", pinned=True) as connection:
        plan = await explained(connection.raw, batch_reads.TASKS["claim_tasks"], *claim_of("", "v2"))
        assert sum(scans(plan).values()) == 0


async def test_a_claim_takes_those_first_that_go_first(filled: Filled) -> None:
    async with connected(await filled.url(GROW), pinned=True) as (_, connection):
        best = await connection.raw.fetch(
            "SELECT run_key FROM tasks WHERE build_id = '' ORDER BY rank, ready_time, run_key LIMIT 300"
        )
        async with connection.transaction():
            claimed = await batch_reads.claim_tasks(connection, 1, "q", 1, TYPES, (), 300, NOW)
        assert [key for key, _, _ in claimed] == [row[0] for row in best]


@pytest.mark.parametrize("is_grown", [False, True], ids=["empty", "grown"])
async def test_a_claim_of_aging_tasks_reads_the_heads_of_the_ranks(filled: Filled, is_grown: bool) -> None:
    """Nothing is sorted but candidates, however much waits."""
    async with filled.connected(*[GROW] * is_grown, pinned=True) as connection:
        arguments = (1, "q", 1, TYPES, ["", "v1"], 16, 48, 60.0)
        plan = await explained(connection.raw, batch_reads.TASKS["claim_aging_tasks"], *arguments)
        read = scans(plan)
        assert set(read) == {INDEX, ROWS}
        assert read[INDEX] <= 48 * len(TYPES) * 2 * 10
        assert read[ROWS] == (16 if is_grown else 0)
        (locks,) = (part for part in plan.parts() if part.kind == "LockRows")
        assert locks.rows == (16 if is_grown else 0)


async def test_a_task_that_waits_gains_priority(filled: Filled) -> None:
    """A step each 50 ms: in the order of the time when each would have had the highest."""
    async with connected(await filled.url(GROW), pinned=True) as (_, connection):
        order = "ready_time + rank * interval '0.05 s', run_key"
        best = await connection.raw.fetch(f"SELECT run_key FROM tasks WHERE build_id = '' ORDER BY {order} LIMIT 300")  # noqa: S608
        claim = (1, "q", 1, TYPES, (), 300)
        async with connection.transaction():
            aged = [key for key, _, _ in await batch_reads.claim_aging_tasks(connection, *claim, 0.05)]
            fixed = [key for key, _, _ in await batch_reads.claim_tasks(connection, *claim, NOW)]
        assert aged == [row[0] for row in best]
        assert aged != fixed


async def test_a_claim_looks_further_when_others_hold_what_goes_first(filled: Filled) -> None:
    """However many: what waits is found."""
    async with connected(await filled.url(GROW), pinned=True) as (database, connection):
        other = await database.connect()
        async with other.transaction():
            theirs = await batch_reads.claim_tasks(other, 1, "q", 1, TYPES, ("v1",), 900, NOW)
            async with connection.transaction():
                ours = await batch_reads.claim_tasks(connection, 1, "q", 1, TYPES, ("v1",), 10, NOW)
        await other.close()
        assert (len(theirs), len(ours)) == (900, 10)
        assert not set(theirs) & set(ours)


async def test_a_claim_locks_no_more_than_it_takes(filled: Filled) -> None:
    async with connected(await filled.url(GROW), pinned=True) as (_, connection):
        other = await asyncpg.connect(await filled.url(GROW), server_settings={"search_path": "stepwell"})
        async with connection.transaction():
            await batch_reads.claim_tasks(connection, 1, "q", 1, TYPES, ("v1",), 10, NOW)
            free = await other.fetchval("SELECT count(*) FROM (SELECT FROM tasks FOR UPDATE SKIP LOCKED) AS t")
        await other.close()
        assert free == GROWN - 10


LOOKS: dict[str, tuple[tuple[Any, ...], int]] = {
    # Arguments, and how many rows it may read of a hundred thousand: a hop a name or sort, a bounded count, ten looks.
    "page_task_queues": ((1, "", ["w"], 51), 10),
    "read_backlogs": ((1, ["q"], 101, 1_001), 20 * (1 + 101 + 10)),
}


@pytest.mark.parametrize("is_grown", [False, True], ids=["empty", "grown"])
@pytest.mark.parametrize("name", LOOKS)
async def test_a_look_at_queues_hops(filled: Filled, name: str, is_grown: bool) -> None:
    arguments, most = LOOKS[name]
    async with filled.connected(*[GROW] * is_grown, pinned=False) as connection:
        await connection.raw.execute("SET enable_seqscan TO off")
        read = scans(await explained(connection.raw, task_queues.TASK_QUEUES[name], *arguments))
        assert set(read) == {INDEX}
        assert read[INDEX] <= most
        assert (read[INDEX] > 0) is is_grown


async def test_a_claim_of_a_driven_activity_reads_what_it_takes(filled: Filled) -> None:
    """Its statement knows that such tasks have neither type nor build, and so walks along the index."""
    driven = "UPDATE tasks SET kind = 4, type = '', build_id = '', rank = 0"
    async with filled.connected(GROW, driven, "VACUUM ANALYZE tasks", pinned=True) as connection:
        statement = batch_reads.TASKS["claim_driven_activities"]
        plan = await explained(connection.raw, statement, 1, "q", "2999-01-01T00:00:00Z", 16)
        assert scans(plan) == {INDEX: 16}
        assert not [part for part in plan.parts() if part.kind == "Sort"]


async def test_running_activities_are_found_by_their_sessions(database_url: str) -> None:
    """Of twenty thousand open steps, and as many jobs, only those are read that a session holds."""
    session_id = uuid4()
    async with connected(database_url, pinned=False) as (database, connection):
        await connection.raw.execute(
            """
            INSERT INTO steps
            SELECT n, 1, '', 'a', 0, '', 2, 'act', CASE WHEN n % 2 = 0 THEN 'q' ELSE 'r' END, 4, NULL, 0, NULL, now(),
                0, 1, 0, 0, CASE WHEN n <= 100 THEN $1::uuid END, 0, '', NULL, NULL, FALSE, NULL
            FROM generate_series(1, 20000) AS n
            """,
            session_id,
        )
        await connection.raw.execute(
            """
            INSERT INTO jobs
            SELECT n, 1, gen_random_uuid(), '', 'act', CASE WHEN n % 2 = 0 THEN 'q' ELSE 'r' END, 4, '', '', '', now(),
                0, now(), 1, 0, 0, CASE WHEN n <= 20100 THEN $1::uuid END, 0, '', NULL, NULL, NULL, NULL, 0, NULL
            FROM generate_series(20001, 40000) AS n
            """,
            session_id,
        )
        await connection.raw.execute("ANALYZE steps, jobs")
        await connection.raw.execute("SET enable_seqscan TO off")
        statement = task_queues.TASK_QUEUES["count_running_activities"]
        read = scans(await explained(connection.raw, statement, [session_id], ["q"], 1))
        assert sum(read.values()) <= 200
        assert {("steps", "steps_driven_idx"), ("jobs", "jobs_session_idx")} <= set(read)
        found = await task_queues.running_activities(database, 1, [session_id, uuid4()], ["q", "s"])
        assert found == {"q": 100, "s": 0}
