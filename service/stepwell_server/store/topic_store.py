"""Reading who waits on a topic, the longest waiting first. Walks watchers_topic_idx, then runs_pkey."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from sqlalchemy import func, select, tuple_

from stepwell_server.model.driven import Watcher
from stepwell_server.store.schema import RUNS, WATCHERS

if TYPE_CHECKING:
    from collections.abc import Collection

    from stepwell_server.store.database import Database


class Place(NamedTuple):
    """Where a watcher stands in the list."""

    create_time: datetime
    run_key: int


class Waiting(NamedTuple):
    """A run that waits, and how many bytes the data of its suspension has."""

    run_key: int
    size: int


class SeenWatcher(NamedTuple):
    """A watcher with the names of its run."""

    watcher: Watcher
    run_id: UUID
    workflow_id: str

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.watcher.create_time, self.watcher.run_key)


async def waiting(
    database: Database, namespace_id: int, topic: str, but_for: Collection[int], most: int
) -> list[Waiting]:
    """Runs that wait on a topic."""
    query = (
        select(WATCHERS.c.run_key, func.coalesce(func.octet_length(WATCHERS.c.data), 0))
        .where(
            WATCHERS.c.namespace_id == namespace_id,
            WATCHERS.c.topic == topic,
            WATCHERS.c.run_key.not_in(but_for),
        )
        .order_by(WATCHERS.c.create_time, WATCHERS.c.run_key)
        .limit(most)
    )
    async with database.pool.begin() as connection:
        return [Waiting(*row) for row in await connection.execute(query)]


async def page(  # noqa: PLR0917 - what is asked of one list
    database: Database, namespace_id: int, topic: str, after: Place | None, most: int, most_bytes: int
) -> tuple[list[SeenWatcher], bool]:
    """Watchers of a topic after a place, fewer where their data is large, and whether there are more."""
    place = (WATCHERS.c.create_time, WATCHERS.c.run_key)
    size = func.coalesce(func.octet_length(WATCHERS.c.data), 0)
    listed = (
        select(WATCHERS, func.sum(size).over(order_by=place).label("total"), size.label("size"))
        .where(WATCHERS.c.namespace_id == namespace_id, WATCHERS.c.topic == topic)
        .order_by(*place)
        .limit(most + 1)
    )
    if after is not None:
        listed = listed.where(tuple_(*place) > tuple_(*after))
    found = listed.subquery()
    query = (
        select(found, RUNS.c.run_id, RUNS.c.workflow_id)
        .join(RUNS, RUNS.c.run_key == found.c.run_key)
        .where((found.c.total <= most_bytes) | (found.c.total == found.c.size))
        .order_by(found.c.create_time, found.c.run_key)
    )
    async with database.pool.begin() as connection:
        asked = (await connection.execute(select(func.count()).select_from(found))).scalar_one()
        rows = (await connection.execute(query)).all()
    seen = [SeenWatcher(Watcher(*row[:8]), row.run_id, row.workflow_id) for row in rows][:most]
    return seen, len(seen) < asked
