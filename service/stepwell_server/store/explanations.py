"""What of a run waits in queues, for those who ask why it does not move."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select

from stepwell_server.store.schema import TASKS

if TYPE_CHECKING:
    from collections.abc import Collection

    from stepwell_server.store.database import Database


async def queued(database: Database, run_key: int, ordinals: Collection[int]) -> dict[int, datetime]:
    """Since when the tasks of these steps wait for a worker; those that do not are absent. Walks tasks_pkey."""
    query = select(TASKS.c.ordinal, TASKS.c.ready_time).where(TASKS.c.run_key == run_key, TASKS.c.ordinal.in_(ordinals))
    async with database.pool.begin() as connection:
        return {row.ordinal: row.ready_time for row in await connection.execute(query)}
