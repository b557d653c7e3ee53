"""Reading history, a page at a time, bounded in number and in bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Select, case, func, select, union_all

from stepwell_server.model.events import Event, EventType, unpack_attributes
from stepwell_server.model.filters import Filter
from stepwell_server.store.filters import Columns, named, where
from stepwell_server.store.schema import CLOSED_RUNS, CLOSED_STEPS, EVENTS, RUNS, STEPS

if TYPE_CHECKING:
    from typing import Any

    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.store.database import Database


_LOOKED_AT = 1_000
_LABELS = {int(kind): kind.label for kind in EventType if kind is not EventType.CALLER}
_FILTERABLE: Columns = {
    **named(EVENTS.c),
    "time": EVENTS.c.event_time,
    "type": case(_LABELS, value=EVENTS.c.type, else_=EVENTS.c.caller_type),
}


class EventPage(msgspec.Struct, frozen=True):
    """Events, the names of the steps that they are about, and whether there are more."""

    events: list[Event]
    step_names: dict[int, str]
    has_more: bool


class FoundEvent(msgspec.Struct, frozen=True):
    """An event, the name of the step that it is about, and its run."""

    event: Event
    step_name: str
    run_id: str
    workflow_id: str


async def page(
    database: Database,
    run_key: int,
    *,
    after: int | None,
    most: int,
    most_bytes: int,
    descending: bool,
    origin: int = 0,
    wanted: Filter | None = None,
) -> EventPage:
    """Events of one run after a number (before it, if descending); fewer where they are large, but at least one."""
    query = _page(run_key, after, most + 1, most_bytes, origin, wanted, descending=descending)
    async with database.pool.begin() as connection:
        rows = (await connection.execute(query)).all()
        events = [Event(*row[:-1]) for row in rows][:most]
        ordinals = {event.step_ordinal for event in events if event.step_ordinal}
        names = await _names(connection, run_key, ordinals) if ordinals else {}
    return EventPage(events, names, bool(rows) and rows[0].found > len(events))


async def matching(
    database: Database,
    run_key: int,
    *,
    attributes: dict[str, str],
    skip: int,
    after: int | None,
    most: int,
    most_bytes: int,
    descending: bool,
    origin: int = 0,
    wanted: Filter | None = None,
) -> EventPage:
    """The same for those whose attributes have these values, behind the first `skip`. Looks at them one by one."""
    found: list[Event] = []
    names: dict[int, str] = {}
    size = 0
    while True:
        part = await page(
            database,
            run_key,
            after=after,
            most=_LOOKED_AT,
            most_bytes=most_bytes,
            descending=descending,
            origin=origin,
            wanted=wanted,
        )
        names |= part.step_names
        for event in part.events:
            after = event.number
            facts = unpack_attributes(event.attributes).facts or {}
            if any(facts.get(name) != value for name, value in attributes.items()):
                continue
            if skip:
                skip -= 1
                continue
            size += len(event.payload or b"") + len(event.attributes or b"")
            if found and (len(found) == most or size > most_bytes):
                return EventPage(found, names, has_more=True)
            found.append(event)
        if not part.has_more:
            return EventPage(found, names, has_more=False)


def _page(  # noqa: PLR0917 - what is asked of one list
    run_key: int,
    after: int | None,
    most: int,
    most_bytes: int,
    origin: int,
    wanted: Filter | None,
    *,
    descending: bool,
) -> Select[Any]:
    number = EVENTS.c.number
    rows = select(EVENTS).where(EVENTS.c.run_key == run_key)
    rows = rows.order_by(number.desc() if descending else number.asc()).limit(most)
    if after is not None:
        rows = rows.where(number < after if descending else number > after)
    if origin:
        rows = rows.where(EVENTS.c.origin == origin)
    if wanted is not None:
        rows = rows.where(where(wanted, _FILTERABLE))
    found = rows.subquery()
    place = found.c.number.desc() if descending else found.c.number.asc()
    # The length of a large value is known without reading it.
    payload, attributes = (func.coalesce(func.octet_length(found.c[name]), 0) for name in ("payload", "attributes"))
    size = payload + attributes
    measured = select(
        found,
        size.label("size"),
        func.sum(size).over(order_by=place).label("total"),
        func.count().over().label("found"),
    ).subquery()
    return (
        select(*(measured.c[column.name] for column in EVENTS.c), measured.c.found)
        .where((measured.c.total <= most_bytes) | (measured.c.total == measured.c.size))
        .order_by(measured.c.number.desc() if descending else measured.c.number.asc())
    )


async def _names(connection: AsyncConnection, run_key: int, ordinals: set[int]) -> dict[int, str]:
    either = union_all(
        *(
            select(table.c.ordinal, table.c.name).where(table.c.run_key == run_key, table.c.ordinal.in_(ordinals))
            for table in (STEPS, CLOSED_STEPS)
        )
    )
    return {row.ordinal: row.name for row in await connection.execute(either)}


async def find(database: Database, namespace_id: int | None, run_key: int, number: int) -> FoundEvent | None:
    """One event with its run, or None. Walks one partition's primary key, and that of the run."""
    query = select(EVENTS).where(EVENTS.c.run_key == run_key, EVENTS.c.number == number)
    runs = union_all(
        *(
            select(table.c.run_id, table.c.workflow_id, table.c.namespace_id).where(table.c.run_key == run_key)
            for table in (RUNS, CLOSED_RUNS)
        )
    )
    async with database.pool.begin() as connection:
        row = (await connection.execute(query)).one_or_none()
        run = (await connection.execute(runs)).first()
        if row is None or run is None or namespace_id not in {None, run.namespace_id}:
            return None
        event = Event(*row)
        names = await _names(connection, run_key, {event.step_ordinal}) if event.step_ordinal else {}
    return FoundEvent(event, names.get(event.step_ordinal, ""), str(run.run_id), run.workflow_id)
