"""Removing runs that have ended, with all that is theirs, in transactions of a bounded size.

Whoever opens an ended run again deletes its row in `closed_runs`, and so does a removal: the row is the lock between
them. A removal waits for nobody. What somebody else has is left for the next time.

    lock   the rows in closed_runs, then those in workflow_ids that still name these runs: SKIP LOCKED both
    take   the rows of TABLES by key, then closed_runs, workflow_ids, run_ids
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from sqlalchemy import ARRAY, BigInteger, ColumnElement, Table, and_, any_, cast, delete, func, select, tuple_

from stepwell_server.model.filters import Filter
from stepwell_server.model.runs import ClosedRun, unpack_details
from stepwell_server.store import requests
from stepwell_server.store.attribute_filters import having
from stepwell_server.store.filters import named, where
from stepwell_server.store.run_lists import filterable
from stepwell_server.store.runs import CLOSED_COLUMNS
from stepwell_server.store.schema import (
    CALLER_SEQS,
    CLOSED_RUNS,
    CLOSED_STEPS,
    DISPATCHES,
    EVENTS,
    HEARTBEATS,
    IDEMPOTENCY_KEYS,
    PUBLISHED,
    RUN_DATA,
    RUN_DEFINITIONS,
    RUN_IDS,
    RUN_ORIGINS,
    RUNS,
    SCOPES,
    SEARCH_ATTRIBUTES,
    SIGNALS,
    SNAPSHOTS,
    USER_TASKS,
    WORKFLOW_IDS,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.model.requests import Asked
    from stepwell_server.store.database import Database

TABLES: tuple[Table, ...] = (
    CALLER_SEQS,
    SCOPES,
    SIGNALS,
    HEARTBEATS,
    PUBLISHED,
    RUN_DEFINITIONS,
    RUN_ORIGINS,
    USER_TASKS,
    SEARCH_ATTRIBUTES,
    SNAPSHOTS,
    RUN_DATA,
    CLOSED_STEPS,
    EVENTS,
)
"""What of an ended run goes with it, by its key. Whoever adds a table with a `run_key` adds it here, or to LEFT."""
DESCRIBING: frozenset[Table] = frozenset({RUN_DEFINITIONS, RUN_ORIGINS, SEARCH_ATTRIBUTES})
"""Those of them that tell what the run is: they stay with its row when its history is archived."""
LEFT: dict[str, str] = {
    "closed_runs": "the run's row, which is the lock, goes after these",
    "run_ids": "goes after these",
    "workflow_ids": "goes after these, if it still names the run",
    "runs": "open runs are not removed",
    "steps": "an ended run has none",
    "tasks": "an ended run has none",
    "watchers": "an ended run has none",
    "topic_waits": "an ended run has none",
    "concurrency_slots": "an ended run has none",
    "run_debounces": "an ended run has none",
    "run_tasks": "an ended run has none",
    "mail": "what is on its way to a run that is gone is taken away by mail delivery",
    "run_calls": "goes a minute after its caller has left",
}
"""The other tables with a `run_key`, each with the reason that a removal leaves it alone."""
LEDGERS: tuple[Table, ...] = (DISPATCHES, IDEMPOTENCY_KEYS)
"""What goes with it by its id: such rows may be there without a run."""
RUNS_AT_ONCE, EVENTS_AT_ONCE = 100, 20_000
"""Of one transaction; the latter may be more only where a single run has more."""
_LOOKED_AT = 5_000
_LOCK_MILLISECONDS = 1_000


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """Which ended runs are meant."""

    namespace_id: int
    ended_before: datetime
    where: Filter | None = None


class Candidate(NamedTuple):
    """An ended run that fitted when it was looked at."""

    run_key: int
    event_count: int


class Cleaned(NamedTuple):
    """How many runs (or events of theirs) went, and after which key to go on; None if there are no more."""

    runs: int
    after: int | None


async def clean_up(database: Database, wanted: Wanted, after: int, most: int, *, is_dry: bool = False) -> Cleaned:
    """Removes the first runs after a key that fit, so many at most; with `is_dry` only counts them."""
    found, last = await choose(database, wanted, after, most)
    if is_dry:
        return Cleaned(len(found), last)
    count = 0
    for portion in portions(found):
        async with database.pool.begin() as connection:
            ended = await lock(connection, portion, *conditions(wanted))
            await take(connection, ended)
        count += len(ended)
    return Cleaned(count, last)


async def recall(database: Database, asked: Asked | None) -> bool | None:
    """What a request to remove a run was answered before."""
    if asked is None:
        return None
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
    return known if isinstance(known, bool) else None


async def remove_one(database: Database, run_key: int | None, asked: Asked | None, now: datetime) -> bool | None:
    """Removes an ended run; False if there is none (of no key). None: it has not ended, or somebody else has it."""
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if isinstance(known, bool):
            return known
        if run_key is not None:
            ended = await lock(connection, [run_key])
            if not ended:
                return None
            await take(connection, ended)
        await requests.note(connection, asked, run_key is not None, now)
        return run_key is not None


def portions(found: Sequence[Candidate]) -> Iterator[list[int]]:
    """The keys of runs, in transactions of a bounded size."""
    portion: list[int] = []
    events = 0
    for each in found:
        if portion and (len(portion) == RUNS_AT_ONCE or events + each.event_count > EVENTS_AT_ONCE):
            yield portion
            portion, events = [], 0
        portion.append(each.run_key)
        events += each.event_count
    if portion:
        yield portion


async def choose(
    database: Database, wanted: Wanted, after: int, most: int, *more: ColumnElement[bool]
) -> tuple[list[Candidate], int | None]:
    """The first runs after a key that fit, and after which key to go on. Looks at a bounded number of them.

    Walks closed_runs_namespace_idx.
    """
    fits = and_(*conditions(wanted), *more).label("fits")
    query = (
        select(CLOSED_RUNS.c.run_key, CLOSED_RUNS.c.last_event, fits)
        .where(CLOSED_RUNS.c.namespace_id == wanted.namespace_id, CLOSED_RUNS.c.run_key > after)
        .order_by(CLOSED_RUNS.c.run_key)
        .limit(_LOOKED_AT)
    )
    async with database.pool.begin() as connection:
        rows = (await connection.execute(query)).all()
    found = [Candidate(row.run_key, row.last_event) for row in rows if row.fits]
    if len(found) > most:
        return found[:most], found[most - 1].run_key
    return found, rows[-1].run_key if len(rows) == _LOOKED_AT else None


def conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    """What holds of the runs that are meant."""
    fit = [CLOSED_RUNS.c.namespace_id == wanted.namespace_id, CLOSED_RUNS.c.end_time < wanted.ended_before]
    if wanted.where is not None:
        attributes = having(wanted.namespace_id, CLOSED_RUNS.c.run_key)
        fit.append(where(wanted.where, filterable(named(CLOSED_COLUMNS)), attributes))
    return fit


async def lock(connection: AsyncConnection, keys: Collection[int], *fit: ColumnElement[bool]) -> list[ClosedRun]:
    """Those of the runs that have ended, fit, and are nobody else's; they stay so until the transaction ends.

    Walks closed_runs_pkey of the partitions that hold them, then workflow_ids_pkey.
    """
    await connection.execute(select(func.set_config("lock_timeout", str(_LOCK_MILLISECONDS), True)))  # noqa: FBT003
    query = select(CLOSED_RUNS).where(_is_of(CLOSED_RUNS, keys), *fit).order_by(CLOSED_RUNS.c.run_key)
    rows = await connection.execute(query.with_for_update(skip_locked=True))
    ended = [ClosedRun(*row) for row in rows]
    left = await _still_needed(connection, ended) | await _names_held(connection, ended)
    return [run for run in ended if run.run_key not in left]


async def take(connection: AsyncConnection, ended: Sequence[ClosedRun]) -> None:
    """Removes runs that are locked, with all that is theirs."""
    if not ended:
        return
    keys = [run.run_key for run in ended]
    for table in TABLES:
        await connection.execute(delete(table).where(_is_of(table, keys)))
    await connection.execute(delete(CLOSED_RUNS).where(_is_of(CLOSED_RUNS, keys)))
    if names := _names(ended):
        named_here = tuple_(WORKFLOW_IDS.c.workflow_id, WORKFLOW_IDS.c.namespace_id).in_(names)
        await connection.execute(delete(WORKFLOW_IDS).where(named_here, _is_of(WORKFLOW_IDS, keys)))
    ids = [(run.run_id, run.namespace_id) for run in ended]
    for table in LEDGERS:
        await connection.execute(delete(table).where(tuple_(table.c.run_id, table.c.namespace_id).in_(ids)))
    given = tuple_(RUN_IDS.c.run_id, RUN_IDS.c.namespace_id).in_(ids)
    await connection.execute(delete(RUN_IDS).where(given, _is_of(RUN_IDS, keys)))


async def purge(connection: AsyncConnection, keys: Collection[int]) -> None:
    """Removes what runs that are locked have beside their rows, ids and names, and what tells what they are."""
    for table in TABLES:
        if table not in DESCRIBING:
            await connection.execute(delete(table).where(_is_of(table, keys)))


async def _still_needed(connection: AsyncConnection, ended: Sequence[ClosedRun]) -> set[int]:
    """Runs with signals that have yet to go to the open runs which continue them."""
    successors = {
        run.run_key: details.continued_key
        for run in ended
        if run.last_signal and (details := unpack_details(run.details)).keeps_signals
    }
    if not successors:
        return set()
    kept = select(SIGNALS.c.run_key).where(_is_of(SIGNALS, successors), ~SIGNALS.c.consumed).distinct()
    waiting = {row[0] for row in await connection.execute(kept)}
    following = select(RUNS.c.run_key).where(_is_of(RUNS, [successors[key] for key in waiting]))
    is_open = {row[0] for row in await connection.execute(following)}
    return {key for key in waiting if successors[key] in is_open}


async def _names_held(connection: AsyncConnection, ended: Sequence[ClosedRun]) -> set[int]:
    """Runs whose names somebody is just giving to others."""
    names = _names(ended)
    if not names:
        return set()
    query = select(WORKFLOW_IDS.c.run_key).where(
        tuple_(WORKFLOW_IDS.c.workflow_id, WORKFLOW_IDS.c.namespace_id).in_(names),
        _is_of(WORKFLOW_IDS, [run.run_key for run in ended]),
    )
    locked = {row[0] for row in await connection.execute(query.with_for_update(skip_locked=True))}
    there = {row[0] for row in await connection.execute(query)}
    return there - locked


def _names(ended: Sequence[ClosedRun]) -> list[tuple[str, int]]:
    return [(run.workflow_id, run.namespace_id) for run in ended if run.workflow_id]


def _is_of(table: Table, keys: Collection[int]) -> ColumnElement[bool]:
    given: ColumnElement[Any] = cast(sorted(keys), ARRAY(BigInteger))
    return table.c.run_key == any_(given)
