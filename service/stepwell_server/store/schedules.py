"""Schedules: what their calls read and write, and what the leader does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import asdict
from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert

from stepwell_server.model.schedules import Schedule, ScheduleRun, Waiting
from stepwell_server.store import namespaces, requests
from stepwell_server.store.columns import columns, pairs
from stepwell_server.store.schedule_runs import add_run
from stepwell_server.store.schema import SCHEDULE_FIRINGS, SCHEDULE_RUNS, SCHEDULES
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.model.requests import Asked
    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database

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


class Decided(msgspec.Struct, frozen=True, gc=False):
    """What a call makes of a schedule, and the times whose firing is to wait."""

    schedule: Schedule
    times: Sequence[datetime]


class Changed(msgspec.Struct, frozen=True, gc=False):
    """A schedule as a call left it, and whether that changed anything."""

    changed: bool
    schedule: Schedule


# --- calls ------------------------------------------------------------------------------------------------------------


async def create(
    database: Database, schedule: Schedule, namespace: str, now: datetime, asked: Asked | None
) -> Schedule | None:
    """Keeps a new schedule and answers it; None if there is another of that name.

    Refuses with NAMESPACE_NOT_FOUND, REQUEST_ID_REUSED.
    """
    statement = (
        insert(SCHEDULES)
        .values(asdict(schedule))
        .on_conflict_do_nothing(index_elements=["namespace_id", "name"])
        .returning(SCHEDULES.c.schedule_id)
    )
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if isinstance(known, Schedule):
            return known
        await namespaces.hold(connection, schedule.namespace_id, namespace)
        if (await connection.execute(statement)).one_or_none() is None:
            return None
        await requests.note(connection, asked, schedule, now)
        return schedule


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


async def change(  # noqa: PLR0917 - what there is to a change
    database: Database,
    namespace_id: int,
    name: str,
    decide: Callable[[Schedule], Schedule | Decided],
    now: datetime,
    asked: Asked | None = None,
) -> Changed | None:
    """Changes a schedule, locked meanwhile; answers what came of it, or None if there is none.

    `decide` answers the very same if nothing is to change. Refuses with REQUEST_ID_REUSED, and as `decide` does.
    """
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if isinstance(known, Changed):
            return known
        before = await _lock(connection, namespace_id, name)
        if before is None:
            return None
        decided = decide(before)
        after, times = (decided.schedule, decided.times) if isinstance(decided, Decided) else (decided, ())
        if after is not before:
            after = msgspec.structs.replace(after, version=before.version + 1)
            statement = update(SCHEDULES).where(SCHEDULES.c.schedule_id == before.schedule_id).values(asdict(after))
            await connection.execute(statement)
            added = await _add_firings(connection, after.schedule_id, times, after.overlap_policy)
            after = msgspec.structs.replace(after, waiting=after.waiting + added)
        if after.last_workflow_id not in {"", before.last_workflow_id}:
            await add_run(connection, ScheduleRun(after.schedule_id, after.last_workflow_id, now))
        changed = Changed(after is not before, after)
        await requests.note(connection, asked, changed, now)
        return changed


async def remove(database: Database, namespace_id: int, name: str, now: datetime, asked: Asked | None) -> bool:
    """Deletes a schedule with what waits of it; answers whether there was one. Refuses with REQUEST_ID_REUSED."""
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if known is not None:
            return bool(known)
        statement = delete(SCHEDULES).where(_named(namespace_id, name)).returning(SCHEDULES.c.schedule_id)
        schedule_id = (await connection.execute(statement)).scalar_one_or_none()
        if schedule_id is not None:
            for table in (SCHEDULE_FIRINGS, SCHEDULE_RUNS):
                await connection.execute(delete(table).where(table.c.schedule_id == schedule_id))
        await requests.note(connection, asked, schedule_id is not None, now)
        return schedule_id is not None


async def wait_for(  # noqa: PLR0917 - what there is to a change
    database: Database,
    namespace_id: int,
    name: str,
    choose: Callable[[Schedule], Sequence[datetime]],
    overlap_policy: int,
    now: datetime,
    asked: Asked | None,
) -> int | None:
    """Lets times wait for their firing, and answers how many were chosen, or None if there is no such schedule.

    One that waits already waits once. Refuses with REQUEST_ID_REUSED, and as `choose` does.
    """
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if isinstance(known, int):
            return known
        # The schedule's row first, as the leader does.
        schedule = await _lock(connection, namespace_id, name)
        if schedule is None:
            return None
        times = choose(schedule)
        await _add_firings(connection, schedule.schedule_id, times, overlap_policy)
        await requests.note(connection, asked, len(times), now)
        return len(times)


async def _add_firings(
    connection: AsyncConnection, schedule_id: UUID, times: Sequence[datetime], overlap_policy: int
) -> int:
    """Answers how many did not wait yet."""
    rows = [{"schedule_id": schedule_id, "nominal_time": time, "overlap_policy": overlap_policy} for time in times]
    if not rows:
        return 0
    added = insert(SCHEDULE_FIRINGS).values(rows).on_conflict_do_nothing().returning(SCHEDULE_FIRINGS.c.nominal_time)
    count = len((await connection.execute(added)).all())
    waiting = {"waiting": SCHEDULES.c.waiting + count}
    await connection.execute(update(SCHEDULES).where(SCHEDULES.c.schedule_id == schedule_id).values(waiting))
    return count


async def _lock(connection: AsyncConnection, namespace_id: int, name: str) -> Schedule | None:
    query = select(SCHEDULES).where(_named(namespace_id, name)).with_for_update()
    found = (await connection.execute(query)).one_or_none()
    return None if found is None else Schedule(*found)


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


async def write_fired(
    connection: Connection,
    fired: Sequence[Fired],
    gone: Sequence[Waiting],
    kept: Sequence[Waiting],
    begun: Sequence[ScheduleRun],
) -> int:
    """Notes what became of due schedules; answers of how many. One that was changed meanwhile is left as it is."""
    removed = pairs([(each.schedule_id, each.nominal_time) for each in gone]) or [(), ()]
    written: int = await connection.fetchval(
        STATEMENTS["write_fired"],
        *columns(fired),
        *removed,
        *(columns(kept) or [(), (), ()]),
        *(columns(begun) or [(), (), ()]),
    )
    return written
