"""Runs with what they were given and came to, a page at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Select, cast, column, func, select

from stepwell_server.store import driven, search_attributes
from stepwell_server.store.runs import SeenRun, ToldEvent, WholeRun, telling_events, whole_of
from stepwell_server.store.schema import EVENTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_server.store.database import Database

Places = list[tuple[int, int]]


async def fitting(database: Database, runs: Sequence[SeenRun], most_bytes: int) -> list[WholeRun]:
    """The first of the runs, as many as fit a page, but at least one, with their payloads.

    Sizes are read first: no more payloads than fit are ever in memory.
    """
    async with database.pool.begin() as connection:
        sized = _at(_places(runs), func.octet_length(EVENTS.c.payload), func.octet_length(EVENTS.c.attributes))
        sizes: dict[int, int] = {}
        for run_key, _, *lengths in await connection.execute(sized):
            sizes[run_key] = sizes.get(run_key, 0) + sum(length or 0 for length in lengths)
        shown = _first(runs, sizes, most_bytes)
        told = _at(_places(shown), EVENTS.c.payload_kind, EVENTS.c.payload, EVENTS.c.attributes)
        events: dict[int, dict[int, ToldEvent]] = {run.run_key: {} for run in shown}
        for run_key, number, *row in await connection.execute(told):
            events[run_key][number] = tuple(row)
        attributes = await search_attributes.of_runs_in(connection, shown)
    cursors = await driven.cursors(database, [run.run_key for run in shown])
    return [
        whole_of(run, events[key], cursors.get(key, 0), attributes.get(key, {}))
        for run in shown
        for key in (run.run_key,)
    ]


def _places(runs: Sequence[SeenRun]) -> Places:
    return [(run.run_key, number) for run in runs for number in telling_events(run)]


def _at(places: Places, *columns: ColumnElement[Any]) -> Select[Any]:
    """Those events, found by their primary key one by one."""
    wanted = (
        func.unnest(
            cast([key for key, _ in places], ARRAY(BigInteger)),
            cast([number for _, number in places], ARRAY(BigInteger)),
        )
        .table_valued(column("run_key", BigInteger), column("number", BigInteger), name="wanted")
        .render_derived()
    )
    here = (EVENTS.c.run_key == wanted.c.run_key) & (EVENTS.c.number == wanted.c.number)
    return select(EVENTS.c.run_key, EVENTS.c.number, *columns).join(wanted, here)


def _first(runs: Sequence[SeenRun], sizes: dict[int, int], most_bytes: int) -> Sequence[SeenRun]:
    total = 0
    for place, run in enumerate(runs):
        total += sizes.get(run.run_key, 0)
        if total > most_bytes and place:
            return runs[:place]
    return runs
