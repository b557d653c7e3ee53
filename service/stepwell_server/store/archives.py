"""Archives: ended runs are written to an object store, and then only their rows stay here.

The object is written first, to the same place each time, and what it holds is taken away afterwards, in a transaction
that looks whether the run is still the one that was written. So a crash between the two loses nothing, and the next try
writes the same object again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace
from sqlalchemy import ColumnElement, and_, exists, literal, or_, select, update

from stepwell_server.model.archive_urls import ArchiveUrl, read_archive_url
from stepwell_server.model.runs import RunRef, pack_details, unpack_details
from stepwell_server.store import object_stores, removal, requests, runs
from stepwell_server.store.bundles import bundle
from stepwell_server.store.runs import CLOSED_COLUMNS, SeenRun
from stepwell_server.store.schema import CLOSED_RUNS, EVENTS

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.model.requests import Asked
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import NamespaceRow
    from stepwell_server.store.removal import Cleaned, Wanted


class Archive(NamedTuple):
    """Where a namespace's runs are archived. `folder` is where this server lets file URLs lead."""

    url: ArchiveUrl
    folder: Path | None
    namespace: str


def archive_of(namespace: NamespaceRow, folder: Path | None) -> Archive | None:
    """Where a namespace's runs are archived, if anywhere."""
    url = read_archive_url(namespace.archive_url) if namespace.archive_url else None
    return Archive(url, folder, namespace.name) if url is not None else None


def has_history() -> ColumnElement[bool]:
    """Whether a run has its history, which begins with its start: one that was archived or pruned has not."""
    return exists(select(literal(1)).where(EVENTS.c.run_key == CLOSED_RUNS.c.run_key, EVENTS.c.number == 1))


async def archivable(
    database: Database, wanted: Wanted, place: tuple[datetime, int] | None, most: int
) -> list[SeenRun]:
    """Ended runs that fit and have their history, those that ended first going first.

    Sorts what fits: see docs/decisions/0034.
    """
    query = select(*CLOSED_COLUMNS).where(*removal.conditions(wanted), has_history())
    if place is not None:
        end_time, run_key = CLOSED_RUNS.c.end_time, CLOSED_RUNS.c.run_key
        query = query.where(or_(end_time > place[0], and_(end_time == place[0], run_key > place[1])))
    query = query.order_by(CLOSED_RUNS.c.end_time, CLOSED_RUNS.c.run_key).limit(most)
    async with database.pool.begin() as connection:
        return [SeenRun(*row) for row in await connection.execute(query)]


async def archive_runs(  # noqa: PLR0917 - as clean_up
    database: Database, archive: Archive, wanted: Wanted, after: int, most: int, now: datetime, *, is_dry: bool = False
) -> Cleaned:
    """Archives the first runs after a key that fit and have their history, so many at most.

    Refuses with ARCHIVE_UNAVAILABLE, ARCHIVES_NOT_SUPPORTED; what was archived before that stays so.
    """
    found, last = await removal.choose(database, wanted, after, most, has_history())
    if is_dry:
        return removal.Cleaned(len(found), last)
    count = 0
    for each in found:
        count += await _archive_one(database, archive, RunRef(None, "", run_key=each.run_key), now)
    return removal.Cleaned(count, last)


async def _archive_one(database: Database, archive: Archive, ref: RunRef, now: datetime) -> bool:
    run = await runs.seek(database, ref)
    if run is None or not run.is_closed:
        return False
    body = bundle(database, run, archive.namespace)
    uri = await object_stores.put(archive.url, archive.folder, archive.namespace, run.run_id, body)
    as_written = and_(CLOSED_RUNS.c.version == run.version, has_history())
    async with database.pool.begin() as connection:
        return bool(await _purge(connection, [run.run_key], now, uri, as_written))


async def mark_archived(  # noqa: PLR0917 - what is asked
    database: Database, run_key: int | None, uri: str, at: datetime, asked: Asked | None, now: datetime
) -> bool | None:
    """Notes where a caller has archived a run, and purges it; False if there is none (of no key).

    None: it has not ended, or somebody else has it.
    """
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if isinstance(known, bool):
            return known
        if run_key is not None and not await _purge(connection, [run_key], at, uri):
            return None
        await requests.note(connection, asked, run_key is not None, now)
        return run_key is not None


async def _purge(
    connection: AsyncConnection, keys: Collection[int], at: datetime, uri: str, *conditions: ColumnElement[bool]
) -> int:
    """Takes away what runs have beside their rows, ids and names, and notes where it is now."""
    ended = await removal.lock(connection, keys, *conditions)
    if not ended:
        return 0
    await removal.purge(connection, [run.run_key for run in ended])
    for run in ended:
        details = replace(unpack_details(run.details), is_purged=True, archive_time=at, archive_uri=uri)
        # Who has just read the row to open the run finds another version, and looks again.
        values = {"version": run.version + 1, "details": pack_details(details)}
        await connection.execute(update(CLOSED_RUNS).where(CLOSED_RUNS.c.run_key == run.run_key).values(values))
    return len(ended)
