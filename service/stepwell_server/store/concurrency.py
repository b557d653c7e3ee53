"""Concurrency limits: the lines of runs that wait for slots."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace
from sqlalchemy import func, literal, select, tuple_

from stepwell_server.model.concurrency import Line, LineView, Strategy
from stepwell_server.store.columns import pairs
from stepwell_server.store.schema import CONCURRENCY_SLOTS
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database

CONCURRENCY = load("concurrency")
MOST_AHEAD = 10_000
_PATIENT = (Strategy.QUEUE, Strategy.ROUND_ROBIN)
FIRST_LINE = Line(0, "", "")


class Position(NamedTuple):
    """Since when a run waits for a slot, and how many of its key wait before it."""

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
    await _add_in_turn(connection, views, most)
    heads = [
        (place, *view.line, _wanted(view, most))
        for place, view in enumerate(views)
        if view.strategy != Strategy.ROUND_ROBIN
    ]
    if not heads:
        return views
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
    return min(view.free, most) if view.strategy in _PATIENT else most


async def _add_in_turn(connection: Connection, views: list[LineView], most: int) -> None:
    """Who waits in lines whose keys go in turn, in the order of the turns: the oldest of each key, then the next."""
    asked = [
        (place, view.line.namespace_id, view.line.name, _wanted(view, most))
        for place, view in enumerate(views)
        if view.strategy == Strategy.ROUND_ROBIN and view.free
    ]
    rows = await connection.fetch(CONCURRENCY["read_keys_in_turn"], *pairs(asked)) if asked else []
    if not rows:
        return
    counts = Counter(row[0] for row in rows)
    heads = [
        (number, *views[place].line[:2], key, -(-_wanted(views[place], most) // counts[place]))
        for number, (place, key) in enumerate(rows)
    ]
    of_keys: list[list[tuple[int, bool]]] = [[] for _ in rows]
    for number, run_key, gives_way in await connection.fetch(CONCURRENCY["read_key_heads"], *pairs(heads)):
        of_keys[number].append((run_key, gives_way))
    for place in counts:
        rounds = zip_longest(*(of_keys[number] for number, row in enumerate(rows) if row[0] == place))
        views[place] = replace(views[place], waiting=[each for turns in rounds for each in turns if each is not None])


async def write_rounds(connection: Connection, served: Iterable[tuple[Line, str]]) -> None:
    """Notes of limits whose keys go in turn which had the last slot."""
    rows = sorted((line.namespace_id, line.name, key) for line, key in served)
    await connection.write(CONCURRENCY["write_rounds"], pairs(rows))


async def prune_rounds(connection: Connection, most: int) -> int:
    """Forgets whose turn it is where there is nobody."""
    return await connection.write(CONCURRENCY["prune_rounds"], [most])  # type: ignore[list-item]


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
            before.c.key == table.c.key,
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
