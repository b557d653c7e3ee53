"""Reading which timers of driven runs are due."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select, union_all

from stepwell_server.ids import pack
from stepwell_server.model.steps import Kind
from stepwell_server.store.schema import RUNS, STEPS

if TYPE_CHECKING:
    from collections.abc import Collection

    from stepwell_server.store.database import Database


async def due(database: Database, namespace_id: int, now: datetime, but_for: Collection[int], most: int) -> list[int]:
    """Numbers of timers whose time has come, earliest first.

    Walks steps_asked_wake_idx, and for managed runs steps_managed_wake_idx, where little is due; then runs_pkey.
    """
    place = ("wake_time", "run_key", "ordinal")
    parts = [
        select(*(STEPS.c[name] for name in place))
        .join(RUNS, RUNS.c.run_key == STEPS.c.run_key)
        .where(STEPS.c.wake_time <= now, STEPS.c.kind == Kind.TIMER, RUNS.c.driven, RUNS.c.namespace_id == namespace_id)
        .where(is_managed)
        .order_by(*(STEPS.c[name] for name in place))
        .limit(most + len(but_for))
        .subquery()
        for is_managed in (STEPS.c.managed, ~STEPS.c.managed)
    ]
    either = union_all(*(select(part) for part in parts)).subquery()
    query = select(either.c.run_key, either.c.ordinal).order_by(*(either.c[name] for name in place))
    query = query.limit(most + len(but_for))
    async with database.pool.begin() as connection:
        numbers: list[int] = [pack(*row) for row in await connection.execute(query)]
    return [number for number in numbers if number not in but_for][:most]
