"""Reading what set driven runs off, and which runs are re-runs of one."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import select, union_all

from stepwell_server.model.driven import RunOrigin
from stepwell_server.store.runs import CLOSED_COLUMNS, OPEN_COLUMNS, SeenRun
from stepwell_server.store.schema import CLOSED_RUNS, RUN_ORIGINS, RUNS

if TYPE_CHECKING:
    from collections.abc import Collection

    from stepwell_server.store.database import Database


async def read(database: Database, run_keys: Collection[int]) -> dict[int, RunOrigin]:
    """Origins by run; of those that have any. Walks run_origins_pkey."""
    if not run_keys:
        return {}
    query = select(*RUN_ORIGINS.columns).where(RUN_ORIGINS.c.run_key.in_(run_keys))
    async with database.pool.begin() as connection:
        return {row.run_key: RunOrigin(*row) for row in await connection.execute(query)}


async def derived(
    database: Database, namespace_id: int, source_run_id: UUID, before: int | None, most: int
) -> list[SeenRun]:
    """Runs that were created from a run, newest first, before a run key. Walks run_origins_source_idx."""
    chosen = select(RUN_ORIGINS.c.run_key).where(
        RUN_ORIGINS.c.source_run_id == source_run_id, RUN_ORIGINS.c.namespace_id == namespace_id
    )
    if before is not None:
        chosen = chosen.where(RUN_ORIGINS.c.run_key < before)
    # Those that are gone are no more than their retention leaves: none, once it is done with them.
    keys = chosen.order_by(RUN_ORIGINS.c.run_key.desc()).limit(most).subquery()
    found = union_all(
        select(*OPEN_COLUMNS).where(RUNS.c.run_key.in_(select(keys))),
        select(*CLOSED_COLUMNS).where(CLOSED_RUNS.c.run_key.in_(select(keys))),
    )
    async with database.pool.begin() as connection:
        runs = [SeenRun(*row) for row in await connection.execute(found)]
    return sorted(runs, key=lambda run: run.run_key, reverse=True)
