"""Reading what runs have published."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select

from stepwell_server.model.payloads import Payload, unpack_payload
from stepwell_server.store.schema import PUBLISHED

if TYPE_CHECKING:
    from stepwell_server.store.database import Database


async def read(database: Database, run_key: int, name: str) -> tuple[Payload, datetime] | None:
    """The latest value of a name and when it was published, or None. Walks published_pkey."""
    query = select(PUBLISHED.c.payload, PUBLISHED.c.publish_time).where(
        PUBLISHED.c.run_key == run_key, PUBLISHED.c.name == name
    )
    async with database.pool.begin() as connection:
        row = (await connection.execute(query)).first()
    return (unpack_payload(row.payload), row.publish_time) if row is not None else None
