"""Lists of runs: filtered, sorted, a page at a time, open and closed alike.

Both tables give as many as a page may need, in the order asked for, and the page is taken of what they gave. Newest
first is the order of the keys, by which both are indexed within a namespace; any other sorts all that fits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Table, func, literal, literal_column, select, union_all

from stepwell_server.model.definitions import DefinitionRef
from stepwell_server.model.filters import Filter
from stepwell_server.model.orders import Order, SortKey
from stepwell_server.model.runs import TERMINAL, Phase, RunRef
from stepwell_server.store import definitions
from stepwell_server.store.attribute_filters import having
from stepwell_server.store.filters import NEVER, Columns, after, named, sorting, where
from stepwell_server.store.runs import CLOSED_COLUMNS, OPEN_COLUMNS, SeenRun, keys
from stepwell_server.store.schema import CLOSED_RUNS, RUN_DEFINITIONS, RUNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Subquery
    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.store.database import Database

_TABLES = ((RUNS, OPEN_COLUMNS, set(Phase) - TERMINAL), (CLOSED_RUNS, CLOSED_COLUMNS, TERMINAL))
_NEWEST_FIRST = SortKey("run_key", descending=True)


class RunFilter(msgspec.Struct, frozen=True, gc=False):
    """Which runs to list; what is None or empty does not filter."""

    namespace_id: int
    phases: tuple[int, ...] = ()
    type: str = ""
    workflow_id: str = ""
    parent_run_id: UUID | None = None
    task_queue: str = ""
    correlation_id: str = ""
    driven: bool | None = None
    where: Filter | None = None
    definition: DefinitionRef | None = None


async def page(  # noqa: PLR0917 - what is asked of one list
    database: Database, wanted: RunFilter, order: Order, place: tuple[Any, ...] | None, most: int, skip: int
) -> list[SeenRun]:
    """Runs that fit, after a place in that order, the newest first among equals."""
    async with database.pool.begin() as connection:
        parts = await _parts(connection, wanted, order, place, most + skip)
        if not parts:
            return []
        merged = union_all(*(select(part) for part in parts)).subquery()
        sorted_by = sorting(order, _sortable(named(merged.c)), _NEWEST_FIRST)
        query = select(merged).order_by(*sorted_by).limit(most).offset(skip)
        return [SeenRun(*row) for row in await connection.execute(query)]


async def count(database: Database, wanted: RunFilter, at_most: int) -> int:
    """How many runs fit, counted no further than one more than `at_most`."""
    async with database.pool.begin() as connection:
        parts = await _parts(connection, wanted, (), None, at_most + 1)
        if not parts:
            return 0
        found = union_all(*(select(part.c.run_key) for part in parts)).subquery()
        return min(int(await connection.scalar(select(func.count()).select_from(found)) or 0), at_most + 1)


def matching(wanted: RunFilter) -> list[tuple[Columns, list[ColumnElement[bool]]]]:
    """The columns of the open and of the ended runs, each with what those of the filter fulfil; of no parent."""
    return [
        (by_name, _fulfilled(table, by_name, wanted, None, None))
        for table, columns, phases in _TABLES
        if not wanted.phases or phases.intersection(wanted.phases)
        for by_name in (named(columns),)
    ]


def place_of(run: SeenRun, order: Order) -> tuple[Any, ...]:
    """Where a run stands in that order."""
    values = {"event_count": run.last_event, "end_time": run.end_time or NEVER}
    return (*(values.get(key.field, getattr(run, key.field, None)) for key in order), run.run_key)


async def _parts(
    connection: AsyncConnection, wanted: RunFilter, order: Order, place: tuple[Any, ...] | None, most: int
) -> list[Subquery]:
    """The open runs that fit, and the closed ones."""
    parent_key: int | None = None
    if wanted.parent_run_id is not None:
        parent = keys(RunRef(wanted.namespace_id, "", run_id=wanted.parent_run_id))
        parent_key = await connection.scalar(parent)
        if parent_key is None:
            return []
    followed: list[int] | None = None
    if wanted.definition is not None:
        followed = await definitions.keys(connection, wanted.namespace_id, wanted.definition)
        if not followed:
            return []
    parts = []
    for table, columns, phases in _TABLES:
        if wanted.phases and not phases.intersection(wanted.phases):
            continue
        by_name = named(columns)
        before = place[-1] if place is not None and not order else None
        conditions = _fulfilled(table, by_name, wanted, parent_key, before)
        if place is not None:
            conditions.append(after(order, _sortable(by_name), _NEWEST_FIRST, place))
        query = select(*columns).where(*conditions).order_by(*sorting(order, _sortable(by_name), _NEWEST_FIRST))
        if followed is not None:
            query = query.join(RUN_DEFINITIONS, RUN_DEFINITIONS.c.run_key == table.c.run_key)
            query = query.where(_is_any(RUN_DEFINITIONS.c.definition_key, followed))
        parts.append(query.limit(most).subquery())
    return parts


def filterable(columns: Columns) -> Columns:
    """A list's columns by the names of the fields that filters know."""
    return {
        **columns,
        "event_count": columns["last_event"],
        "paused": columns["pause_reason"].is_not(None),
        "cancel_requested": columns["cancel_time"].is_not(None),
    }


def _sortable(columns: Columns) -> Columns:
    """None of these is null."""
    end_time = func.coalesce(columns["end_time"], literal(NEVER, columns["end_time"].type))
    return {**columns, "event_count": columns["last_event"], "end_time": end_time}


def _fulfilled(
    table: Table, columns: Columns, wanted: RunFilter, parent_key: int | None, before: int | None
) -> list[ColumnElement[bool]]:
    conditions = [*_conditions(table, wanted, parent_key)]
    if wanted.where is not None:
        attributes = having(wanted.namespace_id, table.c.run_key, before)
        conditions.append(where(wanted.where, filterable(columns), attributes))
    return conditions


def _conditions(table: Table, wanted: RunFilter, parent_key: int | None) -> Sequence[ColumnElement[bool]]:
    conditions = [table.c.namespace_id == wanted.namespace_id]
    if wanted.phases:
        conditions.append(table.c.phase.in_(wanted.phases))
    if parent_key is not None:
        conditions.append(table.c.parent_key == parent_key)
    if wanted.driven is not None:
        # Spelt out, not bound: the indexes of driven runs alone are known to fit.
        conditions.append(table.c.driven if wanted.driven else ~table.c.driven)
    if wanted.correlation_id:
        conditions.append(table.c.correlation_id != literal_column("''"))
    texts = {name: getattr(wanted, name) for name in ("type", "workflow_id", "task_queue", "correlation_id")}
    return [*conditions, *(table.c[name] == text for name, text in texts.items() if text)]


def _is_any(column: ColumnElement[int], keys: list[int]) -> ColumnElement[bool]:
    """One key is compared by itself: along its index runs are sorted already."""
    return column == keys[0] if len(keys) == 1 else column.in_(keys)
