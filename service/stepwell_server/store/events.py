"""Reading history, a page at a time, bounded in number and in bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Select, case, func, select, union_all

from stepwell_server.model.events import Event, EventType
from stepwell_server.model.filters import Filter
from stepwell_server.store.filters import Columns, named, where
from stepwell_server.store.schema import CLOSED_STEPS, EVENTS, STEPS

if TYPE_CHECKING:
    from typing import Any

    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.store.database import Database


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
