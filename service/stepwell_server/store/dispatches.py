"""Dispatches and idempotency keys: what batches do to them, and what callers ask by themselves."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import msgspec
from msgspec.structs import astuple
from sqlalchemy import ColumnElement, delete, exists, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from stepwell_server.model.dispatches import Dispatch, IdempotencyKey
from stepwell_server.store import namespaces, requests
from stepwell_server.store.columns import pairs
from stepwell_server.store.schema import CLOSED_RUNS, DISPATCHES, IDEMPOTENCY_KEYS, RUN_IDS
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.model.requests import Asked
    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database

SQL = load("dispatches")
KeyPlace = tuple[int, str, str, str]
_COLUMNS = list(DISPATCHES.columns)


class StepOfRun(NamedTuple):
    """Which dispatch is meant."""

    namespace_id: int
    run_id: UUID
    step_name: str


class Registered(msgspec.Struct, frozen=True, gc=False):
    """What came of a registration: whether it was the first, and whose the key is."""

    is_new: bool
    run_id: UUID


# --- batches ----------------------------------------------------------------------------------------------------------


async def find_keys(connection: Connection, wanted: Sequence[KeyPlace]) -> list[UUID | None]:
    """The runs for which keys are registered, in the order asked."""
    found: list[UUID | None] = [None] * len(wanted)
    for place, run_id in await connection.fetch(SQL["find_idempotency_keys"], *pairs(wanted)):
        found[place - 1] = run_id
    return found


async def insert_keys(connection: Connection, keys: Sequence[IdempotencyKey]) -> None:
    """Registers keys that were free. Raises Conflict if one is registered meanwhile."""
    ordered: list[IdempotencyKey] = sorted(keys, key=lambda key: key.place)
    await connection.insert(SQL["insert_idempotency_keys"], map(astuple, ordered))


async def note(
    connection: Connection, claimed: Sequence[tuple[StepOfRun, datetime]], released: Sequence[StepOfRun]
) -> None:
    """Notes which dispatched steps were claimed, and takes those out that are to be done again."""
    if released:
        await connection.write(SQL["release_dispatches"], pairs(sorted(set(released))))
    if claimed:
        rows = sorted((*step, time) for step, time in dict(claimed).items())
        await connection.write(SQL["claim_dispatches"], pairs(rows))


# --- single calls -----------------------------------------------------------------------------------------------------


async def record(database: Database, step: StepOfRun, namespace: str, now: datetime, asked: Asked | None) -> bool:
    """Records a dispatch; False if it is recorded. Refuses with NAMESPACE_NOT_FOUND. Walks dispatches_pkey."""
    row = Dispatch(*step, now, "", None)
    added = insert(DISPATCHES).values(msgspec.structs.asdict(row)).on_conflict_do_nothing()
    return await _once(database, step, namespace, now, asked, added.returning(DISPATCHES.c.run_id))


async def annotate(  # noqa: PLR0917
    database: Database, step: StepOfRun, namespace: str, job_id: str, now: datetime, asked: Asked | None
) -> bool:
    """Notes what the carrier calls a dispatch; False if there is none. Walks dispatches_pkey."""
    noted = update(DISPATCHES).where(*_is(step)).values(job_id=job_id).returning(DISPATCHES.c.run_id)
    return await _once(database, step, namespace, now, asked, noted)


async def release(database: Database, step: StepOfRun, namespace: str, now: datetime, asked: Asked | None) -> bool:
    """Takes a dispatch out of the ledger; False if there is none. Walks dispatches_pkey."""
    gone = delete(DISPATCHES).where(*_is(step)).returning(DISPATCHES.c.run_id)
    return await _once(database, step, namespace, now, asked, gone)


async def _once(  # noqa: PLR0917
    database: Database,
    step: StepOfRun,
    namespace: str,
    now: datetime,
    asked: Asked | None,
    statement: object,
) -> bool:
    """Carries out a change of one row, unless its request was answered before."""
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if known is not None:
            return bool(known)
        await namespaces.hold(connection, step.namespace_id, namespace)
        changed = await connection.scalar(statement) is not None  # type: ignore[call-overload]
        await requests.note(connection, asked, changed, now)
    return changed


async def page(database: Database, namespace_id: int, run_id: UUID, after: str, most: int) -> list[Dispatch]:
    """What is dispatched of a run, by step name, after one. Walks dispatches_pkey."""
    query = (
        select(*_COLUMNS)
        .where(DISPATCHES.c.run_id == run_id, DISPATCHES.c.namespace_id == namespace_id, DISPATCHES.c.step_name > after)
        .order_by(DISPATCHES.c.step_name)
        .limit(most)
    )
    async with database.pool.begin() as connection:
        return [Dispatch(*row) for row in await connection.execute(query)]


async def take_unclaimed(
    database: Database, namespace_id: int, before: datetime, now: datetime, most: int
) -> list[Dispatch]:
    """Dispatches from before a time that nobody has claimed, each for one caller, oldest first; their time begins anew.

    Those of ended runs are passed over. Walks dispatches_unclaimed_idx.
    """
    ended = exists().where(
        RUN_IDS.c.run_id == DISPATCHES.c.run_id,
        RUN_IDS.c.namespace_id == DISPATCHES.c.namespace_id,
        CLOSED_RUNS.c.run_key == RUN_IDS.c.run_key,
    )
    key = (DISPATCHES.c.run_id, DISPATCHES.c.namespace_id, DISPATCHES.c.step_name)
    chosen = (
        select(*key)
        .where(
            DISPATCHES.c.namespace_id == namespace_id,
            DISPATCHES.c.claim_time.is_(None),
            DISPATCHES.c.dispatch_time < before,
            ~ended,
        )
        .order_by(DISPATCHES.c.dispatch_time)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    taken = update(DISPATCHES).where(tuple_(*key).in_(chosen)).values(dispatch_time=now).returning(*_COLUMNS)
    async with database.pool.begin() as connection:
        rows = [Dispatch(*row) for row in await connection.execute(taken)]
    return sorted(rows, key=lambda row: (row.run_id, row.step_name))


async def register(database: Database, key: IdempotencyKey, namespace: str, asked: Asked | None) -> Registered:
    """Registers a key for a run, unless it is registered. Refuses with NAMESPACE_NOT_FOUND."""
    added = insert(IDEMPOTENCY_KEYS).values(msgspec.structs.asdict(key)).on_conflict_do_nothing()
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if isinstance(known, Registered):
            return known
        await namespaces.hold(connection, key.namespace_id, namespace)
        while True:
            is_new = await connection.scalar(added.returning(IDEMPOTENCY_KEYS.c.run_id)) is not None
            # One that was there a moment ago may have gone with its run.
            run_id = key.run_id if is_new else await _registered(connection, key.place)
            if run_id is not None:
                break
        answer = Registered(is_new, run_id)
        await requests.note(connection, asked, answer, key.register_time)
    return answer


async def find_key(database: Database, place: KeyPlace) -> tuple[UUID, bool] | None:
    """The run for which a key is registered, and whether it is there; or None. Walks idempotency_keys_pkey."""
    async with database.pool.begin() as connection:
        run_id = await _registered(connection, place)
        if run_id is None:
            return None
        there = exists().where(RUN_IDS.c.run_id == run_id, RUN_IDS.c.namespace_id == place[0])
        return run_id, bool(await connection.scalar(select(there)))


async def _registered(connection: AsyncConnection, place: KeyPlace) -> UUID | None:
    names = ("namespace_id", "type", "trigger_key", "idempotency_key")
    conditions = [IDEMPOTENCY_KEYS.c[name] == value for name, value in zip(names, place, strict=True)]
    found: UUID | None = await connection.scalar(select(IDEMPOTENCY_KEYS.c.run_id).where(*conditions))
    return found


def _is(step: StepOfRun) -> list[ColumnElement[bool]]:
    return [DISPATCHES.c[name] == value for name, value in step._asdict().items()]
