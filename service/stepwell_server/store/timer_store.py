"""Reading which timers of driven runs are due. Walks steps_wake_idx, then runs_pkey."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select

from stepwell_server.ids import pack
from stepwell_server.model.steps import Kind
from stepwell_server.store.schema import RUNS, STEPS

if TYPE_CHECKING:
    from collections.abc import Collection

    from stepwell_server.store.database import Database


async def due(database: Database, namespace_id: int, now: datetime, but_for: Collection[int], most: int) -> list[int]:
    """Numbers of timers whose time has come, earliest first."""
    query = (
        select(STEPS.c.run_key, STEPS.c.ordinal)
        .join(RUNS, RUNS.c.run_key == STEPS.c.run_key)
        .where(STEPS.c.wake_time <= now, STEPS.c.kind == Kind.TIMER, RUNS.c.driven, RUNS.c.namespace_id == namespace_id)
        .order_by(STEPS.c.wake_time, STEPS.c.run_key, STEPS.c.ordinal)
        .limit(most + len(but_for))
    )
    async with database.pool.begin() as connection:
        numbers: list[int] = [pack(*row) for row in await connection.execute(query)]
    return [number for number in numbers if number not in but_for][:most]
