"""Runs with what they were given and came to, a page at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from sqlalchemy import ARRAY, BigInteger, ColumnElement, Select, cast, column, func, select

from stepwell_server.store import driven, run_data, search_attributes
from stepwell_server.store.runs import SeenRun, ToldEvent, WholeRun, telling_events, whole_of
from stepwell_server.store.schema import EVENTS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from stepwell_server.store.database import Database

Places = list[tuple[int, int]]


async def fitting(
    database: Database, runs: Sequence[SeenRun], most_bytes: int, data_names: Collection[str] = ()
) -> list[WholeRun]:
    """The first of the runs, as many as fit a page, but at least one, with their payloads, and with data of theirs.

    Sizes are read first: no more payloads than fit are ever in memory. Of a run that is too large the data is left out.
    """
    async with database.pool.begin() as connection:
        sized = _at(_places(runs), func.octet_length(EVENTS.c.payload), func.octet_length(EVENTS.c.attributes))
        sizes: dict[int, int] = {}
        for run_key, _, *lengths in await connection.execute(sized):
            sizes[run_key] = sizes.get(run_key, 0) + sum(length or 0 for length in lengths)
        extra = await run_data.sizes(connection, [run.run_key for run in runs], data_names) if data_names else {}
        every = {key: sizes.get(key, 0) + extra.get(key, 0) for key in (*sizes, *extra)}
        shown = _first(runs, every, most_bytes)
        keys = [run.run_key for run in shown]
        omitted = bool(extra) and every.get(keys[0], 0) > most_bytes if len(keys) == 1 else False
        data = await run_data.read(connection, keys, data_names) if data_names and not omitted else {}
        told = _at(_places(shown), EVENTS.c.payload_kind, EVENTS.c.payload, EVENTS.c.attributes)
        events: dict[int, dict[int, ToldEvent]] = {run.run_key: {} for run in shown}
        for run_key, number, *row in await connection.execute(told):
            events[run_key][number] = tuple(row)
        attributes = await search_attributes.of_runs_in(connection, shown)
    cursors = await driven.cursors(database, [run.run_key for run in shown])
    return [
        replace(
            whole_of(run, events[key], cursors.get(key, 0), attributes.get(key, {})),
            data=data.get(key, {}),
            data_omitted=omitted,
        )
        for run in shown
        for key in (run.run_key,)
    ]


async def with_data(database: Database, whole: WholeRun, data_names: Collection[str], most_bytes: int) -> WholeRun:
    """A run with data of its own, unless that is too large for a message."""
    if not data_names:
        return whole
    keys = [whole.run.run_key]
    async with database.pool.begin() as connection:
        size = (await run_data.sizes(connection, keys, data_names)).get(keys[0], 0)
        bodies = sum(len(each.body) for each in (whole.input, whole.result, whole.suspension, whole.wake) if each)
        if size + bodies > most_bytes:
            return replace(whole, data_omitted=True)
        data = await run_data.read(connection, keys, data_names)
    return replace(whole, data=data.get(keys[0], {}))


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
