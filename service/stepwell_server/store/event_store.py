"""Counting events, and reading signals that wait to be taken with their payloads."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import func, select

from stepwell_server.model.events import payload_of, unpack_attributes
from stepwell_server.store.schema import EVENTS, SIGNALS

if TYPE_CHECKING:
    from collections.abc import Collection

    from stepwell_server.model.payloads import Payload
    from stepwell_server.store.database import Database


class Waiting(NamedTuple):
    """A signal that nobody has taken, and about how many bytes its payload has."""

    ordinal: int
    size: int


async def count(database: Database, run_key: int, origin: int) -> int:
    """How many events a run has, of one origin or (0) of any. Walks the run's part of one partition's primary key."""
    query = select(func.count()).where(EVENTS.c.run_key == run_key)
    if origin:
        query = query.where(EVENTS.c.origin == origin)
    async with database.pool.begin() as connection:
        return int((await connection.execute(query)).scalar_one())


async def waiting_signals(database: Database, run_key: int, name: str, most: int) -> list[Waiting]:
    """Signals of one name that nobody has taken, oldest first. Walks signals_name_idx."""
    size = func.coalesce(func.octet_length(EVENTS.c.payload), 0) + func.coalesce(
        func.octet_length(EVENTS.c.attributes), 0
    )
    query = (
        select(SIGNALS.c.ordinal, size)
        .join(EVENTS, (EVENTS.c.run_key == SIGNALS.c.run_key) & (EVENTS.c.number == SIGNALS.c.event))
        .where(SIGNALS.c.run_key == run_key, SIGNALS.c.name == name, ~SIGNALS.c.consumed)
        .order_by(SIGNALS.c.ordinal)
        .limit(most)
    )
    async with database.pool.begin() as connection:
        return [Waiting(*row) for row in await connection.execute(query)]


async def payloads(database: Database, run_key: int, numbers: Collection[int]) -> dict[int, Payload]:
    """What events carry, by number."""
    columns = (EVENTS.c.number, EVENTS.c.payload_kind, EVENTS.c.payload, EVENTS.c.attributes)
    query = select(*columns).where(EVENTS.c.run_key == run_key, EVENTS.c.number.in_(numbers))
    async with database.pool.begin() as connection:
        rows = (await connection.execute(query)).all()
    return {number: payload_of(kind, body, unpack_attributes(packed)) for number, kind, body, packed in rows}
