"""Concurrency limits: the lines of runs that wait for slots."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace
from sqlalchemy import func, literal, select, tuple_

from stepwell_server.model.concurrency import Line, LineView, Strategy
from stepwell_server.store.columns import pairs
from stepwell_server.store.schema import CONCURRENCY_SLOTS
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_server.store.database import Connection, Database

CONCURRENCY = load("concurrency")
MOST_AHEAD = 10_000
FIRST_LINE = Line(0, "", "")


class Position(NamedTuple):
    """Since when a run waits for a slot, and how many wait before it."""

    arrive_time: datetime
    ahead: int


async def hold(connection: Connection, lines: Sequence[Line]) -> list[Line]:
    """Those of the lines whose locks are had now; they are held until the batch has ended."""
    stripes = sorted({line.stripe for line in lines})
    held = {row[0] for row in await connection.fetch(CONCURRENCY["hold_lines"], stripes)}
    return [line for line in lines if line.stripe in held]


async def read_lines(connection: Connection, lines: Sequence[Line]) -> list[LineView]:
    """Those of the lines in which somebody waits, without who it is."""
    asked = [(place, *line) for place, line in enumerate(lines)]
    rows = await connection.fetch(CONCURRENCY["read_lines"], *pairs(asked))
    return [LineView(lines[row[0]], row[1], row[2], row[3]) for row in rows]


async def read_heads(connection: Connection, lines: Sequence[Line], most: int) -> list[LineView]:
    """Those of the lines in which somebody waits, with those who may be next, so many of each at most."""
    views = await read_lines(connection, lines)
    if not views:
        return []
    heads = [(place, *view.line, min(most, _wanted(view, most))) for place, view in enumerate(views)]
    for place, run_key, gives_way in await connection.fetch(CONCURRENCY["read_line_heads"], *pairs(heads)):
        views[place] = replace(views[place], waiting=[*views[place].waiting, (run_key, gives_way)])
    superseded = [
        (place, *view.line, view.maximum_runs, most)
        for place, view in enumerate(views)
        if view.strategy == Strategy.CANCEL_IN_PROGRESS
    ]
    if superseded:
        for place, run_key in await connection.fetch(CONCURRENCY["read_superseded"], *pairs(superseded)):
            views[place] = replace(views[place], superseded=[*views[place].superseded, run_key])
    return views


def _wanted(view: LineView, most: int) -> int:
    """How many of those who wait must be known: where the rest only wait on, as many as there are slots for."""
    return view.free if view.strategy == Strategy.QUEUE else most


async def find_waiting(connection: Connection, after: Line, most: int) -> list[Line]:
    """The next lines in which somebody waits."""
    return [Line(*row) for row in await connection.fetch(CONCURRENCY["find_waiting_lines"], *after, most)]


async def position(database: Database, run_key: int) -> Position | None:
    """How a run stands in its line, or None if it does not wait for a slot. Walks concurrency_slots_waiting_idx."""
    table, before = CONCURRENCY_SLOTS, CONCURRENCY_SLOTS.alias()
    ahead = (
        select(literal(1))
        .where(
            before.c.namespace_id == table.c.namespace_id,
            before.c.name == table.c.name,
            before.c.line == table.c.line,
            before.c.admit_time.is_(None),
            tuple_(before.c.arrive_time, before.c.run_key) < tuple_(table.c.arrive_time, table.c.run_key),
        )
        .limit(MOST_AHEAD)
        .correlate(table)
        .subquery()
        .lateral()
    )
    count = select(func.count()).select_from(ahead).scalar_subquery()
    query = select(table.c.arrive_time, count).where(table.c.run_key == run_key, table.c.admit_time.is_(None))
    async with database.pool.begin() as connection:
        row = (await connection.execute(query)).one_or_none()
    return None if row is None else Position(row[0], row[1])
