"""Reading a run with its steps and their attempts, all of one moment, bounded in number and in bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import func, literal, select, text, union_all

from stepwell_server.model.attempts import TELLING, Attempt, Told, attempts_of
from stepwell_server.model.events import payload_of, unpack_attributes
from stepwell_server.model.steps import Kind
from stepwell_server.store import runs, steps
from stepwell_server.store.schema import CLOSED_STEPS, EVENTS, STEPS
from stepwell_server.store.steps import CLOSED_COLUMNS, SeenStep, WholeStep, open_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.model.runs import RunRef
    from stepwell_server.store.database import Database


Sizes = dict[int, list[tuple[int, int]]]


class SeenDetail(NamedTuple):
    """A run, some of its steps with their attempts, and whether there are more."""

    run: runs.WholeRun
    steps: list[tuple[WholeStep, list[Attempt]]]
    has_more: bool


async def read(database: Database, ref: RunRef, after: int, most: int, most_bytes: int) -> SeenDetail | None:
    """The run that is meant, with steps after an ordinal, fewer where they are large; or None.

    Walks steps_pkey, and the run's part of one partition's primary key of closed_steps and of events.
    """
    async with database.pool.begin() as connection:
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        run = await runs.seek_in(connection, ref)
        if run is None:
            return None
        whole, key = await runs.whole_in(connection, run), run.run_key
        most_bytes -= sum(len(payload.body) for payload in (whole.input, whole.result) if payload is not None)
        found = await _steps(connection, key, after, most + 1)
        sizes = await _sizes(connection, key, [step.ordinal for step in found[:most]])
        shown = _fitting(found[:most], sizes, most_bytes)
        events = await _events(connection, key, shown, sizes, most_bytes)
        told = await steps.whole(connection, key, shown)
    attempts = [attempts_of(events.get(step.ordinal, ())) for step in shown]
    return SeenDetail(whole, list(zip(told, attempts, strict=True)), len(shown) < len(found))


async def _steps(connection: AsyncConnection, run_key: int, after: int, most: int) -> list[SeenStep]:
    parts = [
        query.where(table.c.run_key == run_key, table.c.ordinal > after, table.c.kind == Kind.LOCAL)
        .order_by(table.c.ordinal)
        .limit(most)
        .subquery()
        for query, table in ((open_columns(), STEPS), (select(*CLOSED_COLUMNS), CLOSED_STEPS))
    ]
    merged = union_all(*(select(part) for part in parts)).subquery()
    query = select(merged).order_by(merged.c.ordinal).limit(most)
    return [SeenStep(*row) for row in await connection.execute(query)]


_SIZE = func.coalesce(func.octet_length(EVENTS.c.payload), 0) + func.coalesce(func.octet_length(EVENTS.c.attributes), 0)


async def _sizes(connection: AsyncConnection, run_key: int, ordinals: Sequence[int]) -> Sizes:
    """The numbers and sizes of the events that tell of attempts, latest first, by step."""
    query = (
        select(EVENTS.c.step_ordinal, EVENTS.c.number, _SIZE)
        .where(EVENTS.c.run_key == run_key, EVENTS.c.step_ordinal.in_(ordinals), EVENTS.c.type.in_(TELLING))
        .order_by(EVENTS.c.number.desc())
    )
    sizes: Sizes = {}
    for ordinal, number, size in await connection.execute(query):
        sizes.setdefault(ordinal, []).append((number, size))
    return sizes


def _fitting(found: list[SeenStep], sizes: Sizes, most_bytes: int) -> list[SeenStep]:
    """The first of the steps, as many as fit, but at least one. What the latest attempt says stands there twice."""
    total = 0
    for place, step in enumerate(found):
        told = sizes.get(step.ordinal, [])
        total += sum(size for _, size in told) + sum(size for _, size in told[:2]) + len(step.details or b"")
        if total > most_bytes and place:
            return found[:place]
    return found


async def _events(
    connection: AsyncConnection,
    run_key: int,
    shown: list[SeenStep],
    sizes: Sizes,
    most_bytes: int,
) -> dict[int, list[Told]]:
    """The events that tell of attempts at these steps; of a single step the latest that fit."""
    wanted: list[int] = []
    for step in shown:
        left = most_bytes - sum(size for _, size in sizes.get(step.ordinal, [])[:2])
        for number, size in sizes.get(step.ordinal, []):
            left -= size
            if left < 0:
                break
            wanted.append(number)
    query = (
        select(
            EVENTS.c.step_ordinal,
            EVENTS.c.number,
            EVENTS.c.type,
            EVENTS.c.event_time,
            EVENTS.c.payload_kind,
            EVENTS.c.payload,
            EVENTS.c.attributes,
        )
        .where(EVENTS.c.run_key == literal(run_key), EVENTS.c.number.in_(wanted))
        .order_by(EVENTS.c.number)
    )
    events: dict[int, list[Told]] = {}
    for ordinal, number, kind, time, payload_kind, body, packed in await connection.execute(query):
        payload = payload_of(payload_kind, body, unpack_attributes(packed))
        events.setdefault(ordinal, []).append(Told(number, kind, time, payload, packed))
    return events
