"""Claims do not step over what was claimed before them, though nothing of it can be removed; and they miss nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from stepwell_server.settings import Settings
from stepwell_server.store import batch_reads
from stepwell_server.store.claim_floors import SETTLED, WHOLE, Floors, Head, Walk
from stepwell_server.store.columns import pairs
from stepwell_server.store.connection import Connection
from stepwell_server.store.database import Database

QUEUE, SORT = (1, "q", 1), ("t", "")
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
EVER = datetime.min.replace(tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)
WHOLE_SORT = [Walk(*SORT, 0, EVER, 9)]


def floors_after(*heads: tuple[int, datetime], is_all: bool = False, now: datetime = NOW) -> Floors:
    """What is known after a first claim that saw tasks of these ranks."""
    floors = Floors()
    assert floors.walks(QUEUE, [SORT], now) == WHOLE_SORT
    floors.saw(QUEUE, [SORT], [Head(*SORT, rank, 1, time) for rank, time in heads], now, is_all=is_all)
    return floors


def test_a_rank_is_walked_from_the_first_task_that_was_seen() -> None:
    floors = floors_after((5, LONG_AGO))
    assert floors.walks(QUEUE, [SORT], NOW) == [Walk(*SORT, 0, EVER, 4), Walk(*SORT, 5, LONG_AGO, 9)]


def test_ranks_have_floors_of_their_own() -> None:
    """What comes at a higher priority is not behind what was claimed at a lower one."""
    later = LONG_AGO + timedelta(minutes=1)
    floors = floors_after((0, later), (5, LONG_AGO))
    assert floors.walks(QUEUE, [SORT], NOW) == [Walk(*SORT, 0, later, 4), Walk(*SORT, 5, LONG_AGO, 9)]


def test_no_floor_is_younger_than_what_has_settled() -> None:
    """A batch that is older than what was seen may be committed yet."""
    floors = floors_after((0, NOW))
    assert floors.walks(QUEUE, [SORT], NOW) == [Walk(*SORT, 0, NOW - SETTLED, 9)]


def test_where_all_was_seen_an_empty_rank_is_settled() -> None:
    floors = floors_after((0, LONG_AGO))
    floors.saw(QUEUE, [SORT], [], NOW, is_all=False)
    assert floors.walks(QUEUE, [SORT], NOW) == [Walk(*SORT, 0, LONG_AGO, 9)]
    floors.saw(QUEUE, [SORT], [], NOW, is_all=True)
    assert floors.walks(QUEUE, [SORT], NOW) == [Walk(*SORT, 0, NOW - SETTLED, 9)]


def test_now_and_then_all_of_a_sort_is_walked() -> None:
    """Whatever came late is found then; so it is after the clock has gone back."""
    for now in (NOW + WHOLE, NOW - timedelta(seconds=1)):
        floors = floors_after((0, LONG_AGO))
        assert floors.walks(QUEUE, [SORT], NOW + WHOLE / 2) != WHOLE_SORT
        assert floors.walks(QUEUE, [SORT], now) == WHOLE_SORT


def test_sorts_and_queues_know_nothing_of_each_other() -> None:
    floors = floors_after((0, LONG_AGO))
    other = ("t", "v1")
    assert floors.walks(QUEUE, [other], NOW) == [Walk(*other, 0, EVER, 9)]
    assert floors.walks((1, "p", 1), [SORT], NOW) == WHOLE_SORT


# --- in the database --------------------------------------------------------------------------------------------------

DEAD = 20_000
GROW = "INSERT INTO tasks SELECT $1 + n, 0, 1, 'q', 1, 't', 5, $2, '' FROM generate_series(1, $3::int) AS n"


@asynccontextmanager
async def drained(url: str) -> AsyncIterator[Connection]:
    """A connection that has claimed all there was, while somebody looks at how it was before."""
    database = Database(Settings(database_url=url))
    connection = await database.connect()
    await connection.raw.execute(GROW, 0, LONG_AGO, DEAD)
    reader = await asyncpg.connect(url)
    try:
        async with reader.transaction(isolation="repeatable_read"):
            assert await reader.fetchval("SELECT count(*) FROM stepwell.tasks") == DEAD
            while await claimed(connection, 5_000):
                pass
            yield connection
    finally:
        await reader.close()
        await connection.close()
        await database.close()


async def claimed(connection: Connection, most: int, now: datetime = NOW) -> list[int]:
    """The keys of what is claimed, and so deleted."""
    async with connection.transaction():
        tasks = await batch_reads.claim_tasks(connection, *QUEUE, ["t"], (), most, now)
        gone = [(key, ordinal) for key, ordinal, _ in tasks]
        if gone:
            await connection.write(batch_reads.TASKS["delete_tasks"], pairs(gone))
    return [key for key, _ in gone]


async def pages_of(connection: Connection, walks: Sequence[Walk]) -> int:
    """How many pages a claim along these looks at."""
    statement = batch_reads.TASKS["claim_tasks"].sql
    for number, value in reversed(list(enumerate([*QUEUE, 16, 48, *zip(*walks, strict=True)], start=1))):
        statement = statement.replace(f"${number}", _literal(value))
    explained = await connection.raw.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}")
    plan = json.loads(explained)[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        return "'{" + ",".join(f'"{each}"' for each in value) + "}'"
    return f"'{value}'" if isinstance(value, str) else str(value)


async def test_a_claim_passes_by_what_is_dead_and_cannot_be_removed(database_url: str) -> None:
    async with drained(database_url) as connection:
        await connection.raw.execute(GROW, DEAD, NOW, 3)
        walks = connection.floors.walks(QUEUE, [SORT], NOW)
        assert await pages_of(connection, walks) < 50
        assert await pages_of(connection, WHOLE_SORT) > 200
        assert await claimed(connection, 16) == [DEAD + 1, DEAD + 2, DEAD + 3]


async def test_a_task_that_comes_late_is_found_by_a_walk_of_the_whole(database_url: str) -> None:
    """A batch took longer than any does, or its clock was behind."""
    async with drained(database_url) as connection:
        await connection.raw.execute(GROW, DEAD, LONG_AGO, 1)
        assert await claimed(connection, 16) == []
        assert await claimed(connection, 16, NOW + WHOLE) == [DEAD + 1]


async def test_what_was_claimed_and_not_committed_is_found_again(database_url: str) -> None:
    async with drained(database_url) as connection:
        await connection.raw.execute(GROW, DEAD, NOW, 3)
        try:
            async with connection.transaction():
                assert len(await batch_reads.claim_tasks(connection, *QUEUE, ["t"], (), 16, NOW)) == 3
                raise LookupError
        except LookupError:
            pass
        assert len(await claimed(connection, 16)) == 3
