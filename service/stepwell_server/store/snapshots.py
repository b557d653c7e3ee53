"""Snapshots of runs, by plain transactions: they are no part of a run's state.

A run's row, open or ended, is held until the snapshot is there, so that none is left behind by a run that is removed.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Select, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert

from stepwell_server import errors
from stepwell_server.model.payloads import Payload, pack_payload, unpack_payload
from stepwell_server.store.runs import SeenRun, find_in
from stepwell_server.store.schema import CLOSED_RUNS, RUNS, SNAPSHOTS
from stepwell_server.store.turns import take_turn

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.model.runs import RunRef
    from stepwell_server.store.database import Database

MOST = 1_000
"""How many one run may have."""


class SeenSnapshot(msgspec.Struct, frozen=True, gc=False):
    """A snapshot; in lists without its state."""

    event_seq: int
    size: int
    create_time: datetime
    state: Payload | None = None


_SIZE = func.coalesce(func.octet_length(SNAPSHOTS.c.state), 0)


async def create(database: Database, ref: RunRef, event_seq: int, state: Payload, now: datetime) -> bool:
    """Keeps a snapshot, in the place of one of that number. Answers whether there was none.

    Refuses with RUN_NOT_FOUND, RUN_AMBIGUOUS, LIMIT_EXCEEDED.
    """
    statement = insert(SNAPSHOTS).on_conflict_do_update(
        index_elements=["run_key", "event_seq"], set_={"state": pack_payload(state), "create_time": now}
    )
    async with database.pool.begin() as connection:
        run = await find_in(connection, ref)
        await connection.execute(take_turn("snapshots", run.namespace_id, str(run.run_key)))
        await _hold(connection, ref, run)
        there = select(func.count(), func.count().filter(SNAPSHOTS.c.event_seq == event_seq)).where(
            SNAPSHOTS.c.run_key == run.run_key
        )
        count, same = (await connection.execute(there)).one()
        if count >= MOST and not same:
            raise errors.LimitExceeded(limit="snapshots", value=count + 1, maximum=MOST)
        row = {"run_key": run.run_key, "event_seq": event_seq, "state": pack_payload(state), "create_time": now}
        await connection.execute(statement.values(row))
    return not same


async def _hold(connection: AsyncConnection, ref: RunRef, run: SeenRun) -> None:
    """Keeps the run from being removed until the transaction ends. One that ends meanwhile is among the ended ones."""
    for table in (RUNS, CLOSED_RUNS):
        query: Select[tuple[int]] = select(literal_column("1")).where(table.c.run_key == run.run_key)
        if await connection.scalar(query.with_for_update(read=True, key_share=True)) is not None:
            return
    raise errors.RunNotFound(namespace=ref.namespace, run_id=ref.label)


async def read(database: Database, run_key: int, event_seq: int | None) -> SeenSnapshot | None:
    """The snapshot of that number, or the one with the greatest. Walks snapshots_pkey."""
    query = select(SNAPSHOTS.c.event_seq, _SIZE, SNAPSHOTS.c.create_time, SNAPSHOTS.c.state)
    query = query.where(SNAPSHOTS.c.run_key == run_key).order_by(SNAPSHOTS.c.event_seq.desc()).limit(1)
    if event_seq is not None:
        query = query.where(SNAPSHOTS.c.event_seq == event_seq)
    async with database.pool.begin() as connection:
        row = (await connection.execute(query)).one_or_none()
    return None if row is None else SeenSnapshot(row[0], row[1], row[2], unpack_payload(row[3]))


async def page(database: Database, run_key: int, before: int | None, most: int) -> list[SeenSnapshot]:
    """Snapshots without their state, the greatest number first. Walks snapshots_pkey."""
    query = select(SNAPSHOTS.c.event_seq, _SIZE, SNAPSHOTS.c.create_time).where(SNAPSHOTS.c.run_key == run_key)
    if before is not None:
        query = query.where(SNAPSHOTS.c.event_seq < before)
    async with database.pool.begin() as connection:
        rows = await connection.execute(query.order_by(SNAPSHOTS.c.event_seq.desc()).limit(most))
        return [SeenSnapshot(*row) for row in rows]
