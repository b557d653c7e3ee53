"""Task queues as people look at them: their names, and what waits in them. Costs little however much waits."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from stepwell_server.store.database import Database
    from stepwell_server.store.statements import Statement

TASK_QUEUES = load("task_queues")
MOST_COUNTED = 10_000
"""Where counting the tasks of one sort ends."""
MOST_QUEUES = 1_000
"""How many queues of one namespace are looked at together."""
MOST_SORTS = 1_000
"""How many sorts of one queue are looked at."""


class Backlog(msgspec.Struct, frozen=True, gc=False):
    """Tasks of a queue that are alike: how many wait, at most one more than are counted, and since when the oldest."""

    task_queue: str
    kind: int
    type: str
    build_id: str
    count: int
    oldest: datetime


async def page(database: Database, namespace_id: int, after: str, also: Iterable[str], most: int) -> list[str]:
    """Names of queues after one, in their order: those in which something waits, and those given."""
    rows = await _rows(database, TASK_QUEUES["page_task_queues"], namespace_id, after, list(also), most)
    return [row[0] for row in rows]


async def backlogs(database: Database, namespace_id: int, task_queues: Sequence[str]) -> list[Backlog]:
    """What waits in queues, by queue, kind, type and build; of each queue at most one sort more than are told of."""
    arguments = (namespace_id, list(task_queues), MOST_COUNTED + 1, MOST_SORTS + 1)
    return [Backlog(*row) for row in await _rows(database, TASK_QUEUES["read_backlogs"], *arguments)]


async def backlogs_of_all(database: Database, namespace_id: int) -> tuple[list[Backlog], bool]:
    """What waits in the namespace's queues, and whether there are more queues than are looked at."""
    names = await page(database, namespace_id, "", (), MOST_QUEUES + 1)
    return await backlogs(database, namespace_id, names[:MOST_QUEUES]), len(names) > MOST_QUEUES


async def running_activities(
    database: Database, namespace_id: int, session_ids: Iterable[UUID], task_queues: Sequence[str]
) -> dict[str, int]:
    """How many activities and jobs of each queue the namespace's sessions are at, and other engines' workers."""
    arguments = (list(session_ids), list(task_queues), namespace_id)
    return {row[0]: row[1] for row in await _rows(database, TASK_QUEUES["count_running_activities"], *arguments)}


async def _rows(database: Database, statement: Statement, *arguments: object) -> Sequence[Sequence[Any]]:
    """Runs a statement that must not read a table from end to end, however little of it the planner thinks is left."""
    async with database.pool.begin() as connection:
        await connection.exec_driver_sql("SET LOCAL enable_seqscan TO off")
        return (await connection.exec_driver_sql(statement.sql, arguments)).all()
