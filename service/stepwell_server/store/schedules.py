"""Schedules: what their calls read and write, and what the leader does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import asdict
from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert

from stepwell_server.model.schedules import OpenRun, Schedule, Waiting
from stepwell_server.store import namespaces
from stepwell_server.store.columns import columns, pairs
from stepwell_server.store.schema import RUNS, SCHEDULE_FIRINGS, SCHEDULES, WORKFLOW_IDS
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement

    from stepwell_server.store.database import Connection, Database

STATEMENTS = load("schedules")


class Fired(msgspec.Struct, frozen=True, gc=False):
    """What became of a schedule that was due, and how its row changes: fields in the statement's order."""

    schedule_id: UUID
    version: int
    next_time: datetime | None
    next_nominal: datetime | None
    last_time: datetime | None
    last_workflow_id: str | None
    last_run_id: UUID | None
    fired: int
    skipped: int
    missed: int
    last_error: str


# --- calls ------------------------------------------------------------------------------------------------------------


async def create(database: Database, schedule: Schedule, namespace: str) -> bool:
    """Keeps a new schedule; answers False if there is one of that name. Refuses with NAMESPACE_NOT_FOUND."""
    statement = (
        insert(SCHEDULES)
        .values(asdict(schedule))
        .on_conflict_do_nothing(index_elements=["namespace_id", "name"])
        .returning(SCHEDULES.c.schedule_id)
    )
    async with database.pool.begin() as connection:
        await namespaces.hold(connection, schedule.namespace_id, namespace)
        return (await connection.execute(statement)).one_or_none() is not None


async def read(database: Database, namespace_id: int, name: str) -> Schedule | None:
    """A schedule by its name, or None."""
    async with database.pool.begin() as connection:
        found = (await connection.execute(select(SCHEDULES).where(_named(namespace_id, name)))).one_or_none()
    return None if found is None else Schedule(*found)


async def page(database: Database, namespace_id: int, after: str, most: int) -> list[Schedule]:
    """A namespace's schedules in the order of their names, after one."""
    query = (
        select(SCHEDULES)
        .where(SCHEDULES.c.namespace_id == namespace_id, SCHEDULES.c.name > after)
        .order_by(SCHEDULES.c.name)
        .limit(most)
    )
    async with database.pool.begin() as connection:
        return [Schedule(*row) for row in await connection.execute(query)]


async def change(
    database: Database, namespace_id: int, name: str, decide: Callable[[Schedule], Schedule]
) -> tuple[Schedule, Schedule] | None:
    """Changes a schedule, locked meanwhile; answers it as it was and as it is, or None if there is none.

    `decide` answers the very same if nothing is to change.
    """
    async with database.pool.begin() as connection:
        query = select(SCHEDULES).where(_named(namespace_id, name)).with_for_update()
        found = (await connection.execute(query)).one_or_none()
        if found is None:
            return None
        before = Schedule(*found)
        after = decide(before)
        if after is not before:
            after = msgspec.structs.replace(after, version=before.version + 1)
            statement = update(SCHEDULES).where(SCHEDULES.c.schedule_id == before.schedule_id).values(asdict(after))
            await connection.execute(statement)
        return before, after


async def remove(database: Database, namespace_id: int, name: str) -> bool:
    """Deletes a schedule with what waits of it; answers whether there was one."""
    async with database.pool.begin() as connection:
        statement = delete(SCHEDULES).where(_named(namespace_id, name)).returning(SCHEDULES.c.schedule_id)
        schedule_id = (await connection.execute(statement)).scalar_one_or_none()
        if schedule_id is None:
            return False
        await connection.execute(delete(SCHEDULE_FIRINGS).where(SCHEDULE_FIRINGS.c.schedule_id == schedule_id))
        return True


async def wait_for(database: Database, schedule_id: UUID, times: Sequence[datetime], overlap_policy: int) -> None:
    """Lets times wait for their firing. One that waits already waits once."""
    rows = [{"schedule_id": schedule_id, "nominal_time": time, "overlap_policy": overlap_policy} for time in times]
    async with database.pool.begin() as connection:
        # The schedule's row first, as the leader does.
        lock = select(SCHEDULES.c.waiting).where(SCHEDULES.c.schedule_id == schedule_id).with_for_update()
        if (await connection.execute(lock)).one_or_none() is None or not rows:
            return
        added = (
            insert(SCHEDULE_FIRINGS).values(rows).on_conflict_do_nothing().returning(SCHEDULE_FIRINGS.c.nominal_time)
        )
        count = len((await connection.execute(added)).all())
        counted = (
            update(SCHEDULES).where(SCHEDULES.c.schedule_id == schedule_id).values(waiting=SCHEDULES.c.waiting + count)
        )
        await connection.execute(counted)


async def open_run(database: Database, schedule: Schedule) -> tuple[UUID, str] | None:
    """The id and workflow id of the schedule's latest run, while it or one that continues it is open."""
    query = (
        select(RUNS.c.run_id, RUNS.c.workflow_id)
        .join(WORKFLOW_IDS, WORKFLOW_IDS.c.run_key == RUNS.c.run_key)
        .where(
            WORKFLOW_IDS.c.workflow_id == schedule.last_workflow_id,
            WORKFLOW_IDS.c.namespace_id == schedule.namespace_id,
        )
    )
    async with database.pool.begin() as connection:
        found = (await connection.execute(query)).one_or_none()
    return None if found is None else (found[0], found[1])


def _named(namespace_id: int, name: str) -> ColumnElement[bool]:
    return (SCHEDULES.c.namespace_id == namespace_id) & (SCHEDULES.c.name == name)


# --- the leader's -----------------------------------------------------------------------------------------------------


async def read_due(connection: Connection, now: datetime, most: int) -> list[Schedule]:
    """Schedules whose time has come, earliest first."""
    return [Schedule(*row) for row in await connection.fetch(STATEMENTS["read_due_schedules"], now, most)]


async def read_waiting(connection: Connection, after: UUID, most: int) -> list[Schedule]:
    """Schedules with firings that wait, by id, after one."""
    return [Schedule(*row) for row in await connection.fetch(STATEMENTS["read_waiting_schedules"], after, most)]


async def next_after(connection: Connection, now: datetime) -> datetime | None:
    """When the next schedule is due."""
    time: datetime | None = await connection.fetchval(STATEMENTS["next_schedule_after"], now)
    return time


async def read_firings(connection: Connection, schedules: Sequence[Schedule], most: int) -> dict[UUID, list[Waiting]]:
    """The earliest firings that wait, `most` of each schedule."""
    found: dict[UUID, list[Waiting]] = {}
    ids = [schedule.schedule_id for schedule in schedules if schedule.waiting]
    for row in await connection.fetch(STATEMENTS["read_waiting_firings"], ids, most) if ids else ():
        found.setdefault(row[0], []).append(Waiting(*row))
    return found


async def read_open_runs(connection: Connection, schedules: Sequence[Schedule]) -> dict[UUID, OpenRun]:
    """The latest run of each schedule that has an open one."""
    rows = [(each.schedule_id, each.namespace_id, each.last_workflow_id) for each in schedules if each.last_workflow_id]
    if not rows:
        return {}
    found = await connection.fetch(STATEMENTS["read_open_runs"], *pairs(rows))
    return {row[0]: OpenRun(row[1], row[2], row[3]) for row in found}


async def write_fired(
    connection: Connection, fired: Sequence[Fired], gone: Sequence[Waiting], kept: Sequence[Waiting]
) -> int:
    """Notes what became of due schedules; answers of how many. One that was changed meanwhile is left as it is."""
    removed = pairs([(each.schedule_id, each.nominal_time) for each in gone]) or [(), ()]
    written: int = await connection.fetchval(
        STATEMENTS["write_fired"], *columns(fired), *removed, *(columns(kept) or [(), (), ()])
    )
    return written
