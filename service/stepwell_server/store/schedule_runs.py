"""The open runs that a schedule has started, by the names that they go on under.

Rows are added when runs are noted, and go when somebody who needs to know sees that they have ended. Where nobody does,
under ALLOW_ALL, the newest thousand are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import asdict
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert

from stepwell_server.model.schedules import OpenRun, Schedule, ScheduleRun
from stepwell_server.store.schema import RUNS, SCHEDULE_RUNS, WORKFLOW_IDS
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database

STATEMENTS = load("schedule_runs")
MOST_RUNS = 1_000
"""How many runs of a schedule are known at most: the newest."""


async def add_run(connection: AsyncConnection, run: ScheduleRun) -> None:
    """Notes a run of a schedule that is locked; the oldest go."""
    await connection.execute(insert(SCHEDULE_RUNS).values(asdict(run)).on_conflict_do_nothing())
    theirs = SCHEDULE_RUNS.c.schedule_id == run.schedule_id
    newest_first = (SCHEDULE_RUNS.c.note_time.desc(), SCHEDULE_RUNS.c.workflow_id.desc())
    old = select(SCHEDULE_RUNS.c.workflow_id).where(theirs).order_by(*newest_first).offset(MOST_RUNS)
    await connection.execute(delete(SCHEDULE_RUNS).where(theirs, SCHEDULE_RUNS.c.workflow_id.in_(old)))


async def newest_open_run(database: Database, schedule: Schedule) -> tuple[UUID, str] | None:
    """The id and workflow id of the newest run of a schedule that is open, or of the one that continues it."""
    names = select(SCHEDULE_RUNS.c.workflow_id).where(SCHEDULE_RUNS.c.schedule_id == schedule.schedule_id)
    query = (
        select(RUNS.c.run_id, RUNS.c.workflow_id)
        .join(WORKFLOW_IDS, WORKFLOW_IDS.c.run_key == RUNS.c.run_key)
        .where(
            WORKFLOW_IDS.c.workflow_id.in_(names) | (WORKFLOW_IDS.c.workflow_id == schedule.last_workflow_id),
            WORKFLOW_IDS.c.namespace_id == schedule.namespace_id,
        )
        .order_by(RUNS.c.run_key.desc())
        .limit(1)
    )
    async with database.pool.begin() as connection:
        found = (await connection.execute(query)).one_or_none()
    return None if found is None else (found[0], found[1])


async def open_runs_of(connection: Connection, schedules: Sequence[Schedule]) -> dict[UUID, list[OpenRun]]:
    """The open runs of each schedule that has any; what has ended is forgotten."""
    if not schedules:
        return {}
    ids, namespaces, last = zip(
        *((each.schedule_id, each.namespace_id, each.last_workflow_id) for each in schedules), strict=True
    )
    found: dict[UUID, list[OpenRun]] = {}
    for row in await connection.fetch(STATEMENTS["read_open_runs"], ids, namespaces, last):
        found.setdefault(row[0], []).append(OpenRun(row[1], row[2], row[3]))
    await connection.fetch(STATEMENTS["forget_ended_runs"], ids, namespaces)
    return found


async def bound(connection: Connection, begun: Sequence[ScheduleRun]) -> None:
    """Forgets the oldest runs of schedules that have just fired, where there are too many."""
    ids = sorted({each.schedule_id for each in begun})
    if ids:
        await connection.fetch(STATEMENTS["forget_oldest_runs"], ids, MOST_RUNS)
