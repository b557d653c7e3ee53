"""Lists of live workers: filtered, sorted, a page at a time. The table of sessions is small."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from stepwell_server.model.filters import Filter
from stepwell_server.model.orders import Order, SortKey
from stepwell_server.model.workers import Session
from stepwell_server.store.filters import after, named, sorting, where
from stepwell_server.store.schema import SESSIONS

if TYPE_CHECKING:
    from stepwell_server.store.database import Database

BY_REGISTRATION = (SortKey("register_time"),)
_BY_ID = SortKey("session_id")


async def page(  # noqa: PLR0917 - what is asked of one list
    database: Database,
    namespace_id: int,
    wanted: Filter | None,
    order: Order,
    place: tuple[Any, ...] | None,
    now: datetime,
    most: int,
) -> list[Session]:
    """Live workers of a namespace that fit, after a place in that order."""
    columns = named(SESSIONS.c)
    query = (
        select(SESSIONS)
        .where(SESSIONS.c.namespace_id == namespace_id, SESSIONS.c.expire_time > now)
        .order_by(*sorting(order, columns, _BY_ID))
        .limit(most)
    )
    if wanted is not None:
        query = query.where(where(wanted, columns))
    if place is not None:
        query = query.where(after(order, columns, _BY_ID, place))
    async with database.pool.begin() as connection:
        return [Session(*row) for row in await connection.execute(query)]


def place_of(session: Session, order: Order) -> tuple[Any, ...]:
    """Where a worker stands in that order."""
    return (*(getattr(session, key.field) for key in order), session.session_id)
