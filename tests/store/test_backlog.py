"""What waits in all queues is counted in one statement, which costs little however much it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.store.filled import Filled
from tests.store.plans import explained, scans
from tests.store.test_task_plans import GROW, connected

from stepwell_server.store import backlog
from stepwell_server.store.backlog import BACKLOG, Waiting

START = datetime(2024, 1, 1, tzinfo=UTC)


async def test_what_is_to_be_had_is_counted_by_queue_and_sort(database_url: str) -> None:
    """Of each type and build, all priorities together; what is for later does not wait yet; a count has a bound."""
    rows = [
        *((1, "a", 1, "t", place % 3, START + timedelta(seconds=place), "") for place in range(5)),
        (1, "a", 1, "u", 9, START - timedelta(seconds=5), "v1"),
        (1, "a", 2, "t", 0, START + timedelta(seconds=7), ""),
        (1, "b", 1, "t", 0, START + timedelta(hours=2), ""),
        (2, "a", 4, "", 0, START + timedelta(seconds=9), ""),
    ]
    async with connected(database_url, pinned=True) as (_, connection):
        await connection.raw.execute("INSERT INTO namespaces (name, create_time) VALUES ('other', now())")
        await connection.raw.executemany(
            "INSERT INTO tasks VALUES ($1, 0, $2, $3, $4, $5, $6, $7, $8)",
            [(key, *row) for key, row in enumerate(rows)],
        )
        found = await backlog.read_backlog(connection, START + timedelta(hours=1))
        assert found == [
            Waiting("main", "a", 1, 5, START, 1, "t", ""),
            Waiting("main", "a", 1, 1, START - timedelta(seconds=5), 1, "u", "v1"),
            Waiting("main", "a", 2, 1, START + timedelta(seconds=7), 1, "t", ""),
            Waiting("other", "a", 4, 1, START + timedelta(seconds=9), 2, "", ""),
        ]
        (few,) = await connection.fetch(BACKLOG["read_backlog"], START + timedelta(hours=1), 1, 1)
        assert tuple(few)[:4] == ("main", "a", 1, 3)


@pytest.mark.parametrize("is_grown", [False, True], ids=["empty", "grown"])
async def test_counting_hops_and_stops(filled: Filled, is_grown: bool) -> None:
    """Of a hundred thousand tasks in twenty sorts and seven priorities: a hop a sort, and at most fifty a priority."""
    async with filled.connected(*[GROW] * is_grown, pinned=True) as connection:
        plan = await explained(connection.raw, BACKLOG["read_backlog"], datetime.now(UTC) + timedelta(hours=1), 500, 50)
        read = scans(plan)
        assert {table for table, index in read if not index} == set()
        assert read["tasks", "tasks_build_idx"] <= (20 * (1 + 7 * 50) if is_grown else 0)
        assert {index for table, index in read if table == "tasks"} == {"tasks_build_idx"}
