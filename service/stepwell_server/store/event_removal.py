"""Removing events: callers' own, of one run or of all before a time, and whole histories of ended runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from sqlalchemy import ARRAY, BigInteger, ColumnElement, any_, cast, delete, select, union_all, update

from stepwell_server.model.events import Origin
from stepwell_server.model.runs import pack_details, unpack_details
from stepwell_server.store import removal, requests
from stepwell_server.store.archives import has_history
from stepwell_server.store.removal import Candidate, Cleaned
from stepwell_server.store.schema import CLOSED_RUNS, EVENTS, RUNS

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from stepwell_server.model.requests import Asked
    from stepwell_server.store.database import Database


async def delete_callers(database: Database, run_key: int, asked: Asked | None, now: datetime) -> int:
    """Deletes the events that callers appended to a run; answers how many."""
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if isinstance(known, int):
            return known
        statement = delete(EVENTS).where(EVENTS.c.run_key == run_key, EVENTS.c.origin == int(Origin.CALLER))
        count = (await connection.execute(statement)).rowcount
        await requests.note(connection, asked, count, now)
    return count


async def prune_callers(database: Database, namespace_id: int, cutoff: datetime, after: int, most: int) -> Cleaned:
    """Deletes what callers appended before a time to the first runs after a key, open and ended ones.

    Answers how many events went. Walks runs_namespace_idx and closed_runs_namespace_idx, then events_pkey.
    """
    parts = [
        select(table.c.run_key, table.c.last_event)
        .where(table.c.namespace_id == namespace_id, table.c.run_key > after)
        .order_by(table.c.run_key)
        .limit(most)
        .subquery()
        for table in (RUNS, CLOSED_RUNS)
    ]
    both = union_all(*(select(part) for part in parts)).subquery()
    async with database.pool.begin() as connection:
        found = [Candidate(*row) for row in await connection.execute(select(both).order_by("run_key").limit(most))]
    count = 0
    for portion in removal.portions(found):
        old = (EVENTS.c.origin == int(Origin.CALLER), EVENTS.c.event_time < cutoff)
        async with database.pool.begin() as connection:
            count += (await connection.execute(delete(EVENTS).where(_of(portion), *old))).rowcount
    return Cleaned(count, found[-1].run_key if len(found) == most else None)


async def prune_ended(database: Database, wanted: removal.Wanted, after: int, most: int) -> Cleaned:
    """Deletes the histories of the first runs after a key that have ended and fit; answers how many events went."""
    found, last = await removal.choose(database, wanted, after, most, has_history())
    count = 0
    for portion in removal.portions(found):
        async with database.pool.begin() as connection:
            ended = await removal.lock(connection, portion, *removal.conditions(wanted), has_history())
            if ended:
                keys = [run.run_key for run in ended]
                count += (await connection.execute(delete(EVENTS).where(_of(keys)))).rowcount
            for run in ended:
                details = pack_details(replace(unpack_details(run.details), is_purged=True))
                values: dict[str, Any] = {"version": run.version + 1, "details": details}
                changed = update(CLOSED_RUNS).where(CLOSED_RUNS.c.run_key == run.run_key)
                await connection.execute(changed.values(values))
    return Cleaned(count, last)


def _of(keys: Collection[int]) -> ColumnElement[bool]:
    return EVENTS.c.run_key == any_(cast(sorted(keys), ARRAY(BigInteger)))
