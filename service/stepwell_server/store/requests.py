"""What cold calls with a request id were answered, for changes that do not pass the committer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import asdict
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from stepwell_server import errors
from stepwell_server.model.requests import Asked, Recorded, answer_of, record
from stepwell_server.store.schema import REQUESTS
from stepwell_server.store.turns import take_turn

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.store.database import Database

Answer = TypeVar("Answer")


async def recall(connection: AsyncConnection, asked: Asked | None) -> object | None:
    """What the request was answered before, or None. Until the transaction ends, a repeat of it waits.

    Refuses with REQUEST_ID_REUSED. Walks requests_pkey.
    """
    if asked is None:
        return None
    await connection.execute(take_turn("request", asked.namespace_id, asked.method, asked.request_id))
    names = ("request_id", "namespace_id", "method")
    query = select(REQUESTS).where(*(REQUESTS.c[name] == getattr(asked, name) for name in names))
    found = (await connection.execute(query)).one_or_none()
    if found is None:
        return None
    row = Recorded(*found)
    if row.body_hash != asked.body_hash:
        raise errors.RequestIdReused(method=asked.method, request_id=asked.request_id)
    return answer_of(row, asked)


async def note(connection: AsyncConnection, asked: Asked | None, answer: object, now: datetime) -> None:
    """Keeps what the request is answered, in the transaction of its change."""
    if asked is not None:
        await connection.execute(insert(REQUESTS).values(asdict(record(asked, answer, now))))


async def settled(database: Database, asked: Asked, answer: Answer, now: datetime) -> Answer:
    """What the request is to come to: what it came to before, or else this, which is kept. Refuses as `recall`."""
    async with database.pool.begin() as connection:
        known: Any = await recall(connection, asked)
        if known is None:
            await note(connection, asked, answer, now)
        return answer if known is None else known
