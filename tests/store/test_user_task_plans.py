"""Plans of the statements about tasks for people: lists walk their indexes, on an empty database as on a grown one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Select
from sqlalchemy.dialects import postgresql
from tests.store.filled import Filled
from tests.store.plans import Part, explained, scans

from stepwell_server.model.user_tasks import TaskStatus
from stepwell_server.store.sides import SIDES
from stepwell_server.store.user_tasks import Inbox, InboxPlace, NewestPlace, TaskFilter, inbox_query, page_query

# Of a hundred thousand tasks, of a hundred roles, users and groups, a tenth are pending.
GROW = """
INSERT INTO user_tasks
SELECT
    n / 10, n % 10, 1, gen_random_uuid(), gen_random_uuid(), '', 's', 't', '', '', 'r' || (n % 100), 'u' || (n % 100),
    'g' || (n % 100), 1 + n % 4, now() + n * interval '1 s', '', CASE WHEN n / 100 % 10 = 0 THEN 1 ELSE 3 END,
    now() + n * interval '1 s', now(), '', NULL, '', NULL, 1, 1, 0
FROM generate_series(1, 100000) AS n;
ANALYZE;
"""
TABLE = "user_tasks"
NOW, ID = datetime(2020, 1, 1, tzinfo=UTC), UUID(int=7)
ROLES = Inbox(1, ("r1", "r2", "r3"), "", ())
EVERY = Inbox(1, ("r1",), "u1", ("g1", "g2"))
PLACE = InboxPlace(3, NOW, NOW, ID)
PENDING = TaskFilter(1, statuses=(int(TaskStatus.PENDING),))
# Queries, and how many rows may be read by which index.
LISTS: dict[str, tuple[Select[Any], dict[str, int]]] = {
    "roles": (inbox_query(ROLES, None, 51), {"user_tasks_role_idx": 3 * 51, "user_tasks_pkey": 51}),
    "roles after": (inbox_query(ROLES, PLACE, 51), {"user_tasks_role_idx": 3 * 51, "user_tasks_pkey": 51}),
    "every": (
        inbox_query(EVERY, None, 51),
        {
            "user_tasks_role_idx": 51,
            "user_tasks_user_idx": 51,
            "user_tasks_group_idx": 2 * 51,
            "user_tasks_pkey": 51,
        },
    ),
    "newest": (page_query(TaskFilter(1), (), None, 51), {"user_tasks_time_idx": 51}),
    "newest after": (
        page_query(TaskFilter(1), (), NewestPlace(datetime(2999, 1, 1, tzinfo=UTC), ID), 51),
        {"user_tasks_time_idx": 51},
    ),
    "pending": (page_query(PENDING, (), None, 51), {"user_tasks_status_idx": 51}),
    "of a run": (page_query(TaskFilter(1, run_key=5), (), None, 51), {"user_tasks_pkey": 10}),
}
NAMED: dict[str, tuple[tuple[Any, ...], dict[str, int]]] = {
    "read_user_tasks": (([5, 6], [1, 1]), {"user_tasks_pkey": 2}),
    "find_user_tasks": (([ID], [1]), {"user_tasks_task_id_key": 1}),
    "delete_user_tasks": (([5, 6], [1, 1]), {"user_tasks_pkey": 2}),
}


def read_by(plan: Part) -> dict[str, int]:
    """How many rows of the table were read by each index; what writes names it too, but walks nothing."""
    writes = {part.scan for part in plan.parts() if part.kind == "ModifyTable"}
    return {place[1]: rows for place, rows in scans(plan).items() if place[0] == TABLE and place not in writes}


@pytest.mark.parametrize("name", LISTS)
async def test_a_list_walks_its_index_on_a_grown_table(filled: Filled, name: str) -> None:
    query, most = LISTS[name]
    written = query.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})  # type: ignore[no-untyped-call]
    async with filled.connected(GROW, pinned=False) as connection:
        explain = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {written}"
        plan = Part(json.loads(await connection.raw.fetchval(explain))[0]["Plan"])
        read = read_by(plan)
        assert set(read) == set(most)
        assert {index: rows for index, rows in read.items() if rows > most[index]} == {}
        assert sum(read.values()) > 0


@pytest.mark.parametrize("is_grown", [False, True], ids=["empty", "grown"])
@pytest.mark.parametrize("name", NAMED)
async def test_keys_are_looked_up(filled: Filled, name: str, is_grown: bool) -> None:
    arguments, most = NAMED[name]
    async with filled.connected(*[GROW] * is_grown, pinned=True) as connection:
        read = read_by(await explained(connection.raw, SIDES[name], *arguments))
        assert set(read) == set(most)
        assert {index: rows for index, rows in read.items() if rows > most[index]} == {}
