"""Namespaces: their rows, and a small cache of names and ids.

Another replica may delete a namespace or make one, so what is known of a name is looked up again after a few seconds.
That a name is unknown is never remembered. Whoever puts something into a namespace therefore holds its row until it is
there (`hold`, or what the committer does for starts): who deletes it waits, and then finds it.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import ColumnElement, Select, Table, delete, exists, func, literal, or_, select, union_all, update
from sqlalchemy.dialects.postgresql import insert

from stepwell_server import errors
from stepwell_server.ids import MAIN
from stepwell_server.model.filters import SORTED_TEXT, SORTED_TIME, Fields, Filter
from stepwell_server.model.orders import Order, SortKey
from stepwell_server.store import requests
from stepwell_server.store.filters import after, named, sorting, where
from stepwell_server.store.schema import (
    API_KEYS,
    CLOSED_JOBS,
    CLOSED_RUNS,
    DEFINITIONS,
    DISPATCHES,
    IDEMPOTENCY_KEYS,
    JOBS,
    KEY_BUCKETS,
    NAMESPACES,
    QUEUE_SETTINGS,
    RUNS,
    SCHEDULES,
    SESSIONS,
    TOPIC_EVENTS,
    WORKERS,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.model.requests import Asked
    from stepwell_server.store.database import Database

_KNOWN_SECONDS = 5.0
_MOST_KNOWN = 10_000
_BY_NAME = SortKey("name")
# What is counted beside the phases of runs.
_WORKERS, _SCHEDULES, _ID = 0, -1, -2


class NamespaceRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `namespaces`."""

    namespace_id: int
    name: str
    create_time: datetime
    retention_seconds: float | None = None
    archive_url: str = ""


LISTED: Fields = {"name": SORTED_TEXT, "create_time": SORTED_TIME}
"""By what namespaces are filtered and sorted."""


def place_of(row: NamespaceRow, order: Order) -> tuple[Any, ...]:
    """Where a namespace stands in that order."""
    return (*(getattr(row, key.field) for key in order), row.name)


class Stats(msgspec.Struct, frozen=True, gc=False):
    """What is in a namespace, in one snapshot."""

    namespace_id: int | None  # None: there is none of that name
    runs: dict[int, int]
    workers: int
    schedules: int


class Namespaces:
    """All namespaces, and what is known of them for the moment."""

    def __init__(self, database: Database) -> None:
        self._pool = database.pool
        self._known: dict[str, tuple[NamespaceRow, float]] = {}
        self._names: dict[int, str] = {}
        self._asked: dict[str, asyncio.Task[NamespaceRow | None]] = {}

    async def id_of(self, name: str) -> int:
        """The id of the namespace. Refuses with NAMESPACE_NOT_FOUND."""
        known = self._known.get(name)
        if known is not None and (known[1] > time.monotonic() or name == MAIN):
            return known[0].namespace_id
        return (await self.get(name)).namespace_id

    async def get(self, name: str) -> NamespaceRow:
        """The namespace as stored, asked of the database once for all who want it now."""
        asked = self._asked.get(name)
        if asked is None:
            asked = self._asked[name] = asyncio.create_task(self._read(name))
            asked.add_done_callback(lambda _: self._asked.pop(name, None))
        # One caller's end must not be another's.
        row = await asyncio.shield(asked)
        if row is None:
            raise errors.NamespaceNotFound(namespace=name)
        return row

    async def name_of(self, namespace_id: int) -> str:
        """The name of a namespace that something of it was just read from; a name never changes."""
        name = self._names.get(namespace_id)
        if name is not None:
            return name
        query = select(NAMESPACES).where(NAMESPACES.c.namespace_id == namespace_id)
        async with self._pool.begin() as connection:
            found = (await connection.execute(query)).one_or_none()
        return self._note(NamespaceRow(*found)).name if found is not None else ""

    async def create(self, name: str, now: datetime, asked: Asked | None = None) -> NamespaceRow:
        """Creates a namespace. Refuses with NAMESPACE_EXISTS, REQUEST_ID_REUSED."""
        statement = (
            insert(NAMESPACES)
            .values(name=name, create_time=now)
            .on_conflict_do_nothing(index_elements=["name"])
            .returning(*NAMESPACES.c)
        )
        async with self._pool.begin() as connection:
            known = await requests.recall(connection, asked)
            if isinstance(known, NamespaceRow):
                return known
            made = (await connection.execute(statement)).one_or_none()
            if made is None:
                raise errors.NamespaceExists(namespace=name)
            row = NamespaceRow(*made)
            await requests.note(connection, asked, row, now)
        return self._note(row)

    async def page(
        self,
        wanted: Filter | None,
        order: Order,
        place: tuple[Any, ...] | None,
        most: int,
        *,
        only: str | None = None,
    ) -> list[NamespaceRow]:
        """Namespaces that fit, after a place in that order, by name among equals; `only` that one, if given."""
        columns = named(NAMESPACES.c)
        query = select(NAMESPACES).order_by(*sorting(order, columns, _BY_NAME)).limit(most)
        if only is not None:
            query = query.where(NAMESPACES.c.name == only)
        if wanted is not None:
            query = query.where(where(wanted, columns))
        if place is not None:
            query = query.where(after(order, columns, _BY_NAME, place))
        async with self._pool.begin() as connection:
            return [NamespaceRow(*row) for row in await connection.execute(query)]

    async def update(
        self, name: str, changes: dict[str, float | str | None], now: datetime, asked: Asked | None = None
    ) -> NamespaceRow:
        """Changes columns of a namespace. Refuses with NAMESPACE_NOT_FOUND, REQUEST_ID_REUSED."""
        statement = update(NAMESPACES).where(NAMESPACES.c.name == name).values(changes).returning(*NAMESPACES.c)
        async with self._pool.begin() as connection:
            known = await requests.recall(connection, asked)
            if isinstance(known, NamespaceRow):
                return known
            changed = (await connection.execute(statement)).one_or_none()
            if changed is None:
                raise errors.NamespaceNotFound(namespace=name)
            row = NamespaceRow(*changed)
            await requests.note(connection, asked, row, now)
        return self._note(row)

    async def kept_for_a_time(self) -> list[NamespaceRow]:
        """The namespaces whose runs have a retention."""
        query = select(NAMESPACES).where(NAMESPACES.c.retention_seconds.is_not(None)).order_by(NAMESPACES.c.name)
        async with self._pool.begin() as connection:
            return [NamespaceRow(*row) for row in await connection.execute(query)]

    async def delete(self, name: str, now: datetime, asked: Asked | None = None) -> bool:
        """Deletes an empty namespace; answers whether there was one.

        Refuses with NAMESPACE_NOT_EMPTY, REQUEST_ID_REUSED.
        """
        async with self._pool.begin() as connection:
            known = await requests.recall(connection, asked)
            if known is not None:
                return bool(known)
            deleted = name != MAIN and await _delete(connection, name)
            await requests.note(connection, asked, deleted, now)
        if deleted:
            self._known.pop(name, None)
        return deleted

    async def stats(self, name: str, now: datetime) -> Stats:
        """Counts runs by phase, workers and schedules, in one statement and so in one snapshot."""
        parts = [
            select(literal(_ID).label("phase"), NAMESPACES.c.namespace_id).where(NAMESPACES.c.name == name),
            *(_counted(table, name) for table in (RUNS, CLOSED_RUNS)),
            _counted_as(_WORKERS, SESSIONS, name, SESSIONS.c.expire_time > now),
            _counted_as(_WORKERS, WORKERS, name, ~WORKERS.c.condemned),
            _counted_as(_SCHEDULES, SCHEDULES, name),
        ]
        async with self._pool.begin() as connection:
            rows: Sequence[Any] = (await connection.execute(union_all(*parts))).all()
        counts: dict[int, int] = {_WORKERS: 0, _SCHEDULES: 0}
        namespace_id = next((row[1] for row in rows if row[0] == _ID), None)
        for counted, count in rows:
            counts[counted] = counts.get(counted, 0) + count
        counts.pop(_ID, None)
        workers, schedules = counts.pop(_WORKERS), counts.pop(_SCHEDULES)
        return Stats(namespace_id, dict(sorted(counts.items())), workers, schedules)

    async def _read(self, name: str) -> NamespaceRow | None:
        async with self._pool.begin() as connection:
            found = (await connection.execute(select(NAMESPACES).where(NAMESPACES.c.name == name))).one_or_none()
        if found is None:
            self._known.pop(name, None)
            return None
        return self._note(NamespaceRow(*found))

    def _note(self, row: NamespaceRow) -> NamespaceRow:
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
            self._names.clear()
        self._known[row.name] = (row, time.monotonic() + _KNOWN_SECONDS)
        self._names[row.namespace_id] = row.name
        return row


async def _delete(connection: AsyncConnection, name: str) -> bool:
    locked = select(NAMESPACES.c.namespace_id).where(NAMESPACES.c.name == name).with_for_update()
    namespace_id = (await connection.execute(locked)).scalar_one_or_none()
    if namespace_id is None:
        return False
    tables = (RUNS, CLOSED_RUNS, JOBS, CLOSED_JOBS, SCHEDULES, DEFINITIONS)
    used = [exists(select(literal(1)).where(table.c.namespace_id == namespace_id)) for table in tables]
    if (await connection.execute(select(or_(*used)))).scalar_one():
        raise errors.NamespaceNotEmpty(namespace=name)
    theirs = (WORKERS, TOPIC_EVENTS, API_KEYS, DISPATCHES, IDEMPOTENCY_KEYS, QUEUE_SETTINGS, KEY_BUCKETS, NAMESPACES)
    for table in theirs:
        await connection.execute(delete(table).where(table.c.namespace_id == namespace_id))
    return True


def _counted_as(what: int, table: Table, name: str, *conditions: ColumnElement[bool]) -> Select[Any, Any]:
    return select(literal(what).label("phase"), func.count()).where(
        table.c.namespace_id == NAMESPACES.c.namespace_id, NAMESPACES.c.name == name, *conditions
    )


async def hold(connection: AsyncConnection, namespace_id: int, name: str) -> None:
    """Keeps a namespace from being deleted until the transaction ends. Refuses with NAMESPACE_NOT_FOUND."""
    query = select(NAMESPACES.c.namespace_id).where(NAMESPACES.c.namespace_id == namespace_id)
    if await connection.scalar(query.with_for_update(read=True, key_share=True)) is None:
        raise errors.NamespaceNotFound(namespace=name)


def _counted(table: Table, name: str) -> Select[tuple[int, int]]:
    return (
        select(table.c.phase, func.count())
        .where(table.c.namespace_id == NAMESPACES.c.namespace_id, NAMESPACES.c.name == name)
        .group_by(table.c.phase)
    )
