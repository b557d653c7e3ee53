"""Workers of outside engines: registered, heard of, listed, and removed when they are dead."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import astuple
from sqlalchemy import delete, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from stepwell_server import errors
from stepwell_server.ids import pack, unpack
from stepwell_server.model.filters import Filter
from stepwell_server.model.orders import Order, SortKey
from stepwell_server.model.steps import Kind, StepState
from stepwell_server.model.workers import RegisteredWorker
from stepwell_server.store import namespaces
from stepwell_server.store.filters import after, named, sorting, where
from stepwell_server.store.schema import RUN_TASKS, RUNS, STEPS, WORKERS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from stepwell_server.store.database import Database

_BY_ID = SortKey("worker_id")


class Held(NamedTuple):
    """Something that a worker has: a run's task by the run's key, or an activity by its number."""

    key: int
    owner_id: str


async def register(database: Database, worker: RegisteredWorker, namespace: str) -> tuple[RegisteredWorker, bool]:
    """Registers a worker, also one that is being removed; answers it, and whether it is new. Walks workers_pkey.

    Refuses with NAMESPACE_NOT_FOUND.
    """
    columns = [column.name for column in WORKERS.columns]
    row = insert(WORKERS).values(dict(zip(columns, astuple(worker), strict=True)))
    kept = ("worker_id", "namespace_id", "register_time")
    again = row.on_conflict_do_update(
        index_elements=["worker_id", "namespace_id"],
        set_={name: row.excluded[name] for name in columns if name not in kept},
    ).returning(*WORKERS.c)
    known = select(WORKERS.c.worker_id).where(
        WORKERS.c.worker_id == worker.worker_id, WORKERS.c.namespace_id == worker.namespace_id, ~WORKERS.c.condemned
    )
    async with database.pool.begin() as connection:
        await namespaces.hold(connection, worker.namespace_id, namespace)
        was_known = await connection.scalar(known) is not None
        written = (await connection.execute(again)).one()
    return RegisteredWorker(*written), not was_known


async def beat(database: Database, namespace_id: int | None, worker_id: str, now: datetime) -> bool:
    """Notes a sign of life; False if there is no such worker. Refuses with WORKER_AMBIGUOUS. Walks workers_pkey."""
    meant = (WORKERS.c.worker_id == worker_id, ~WORKERS.c.condemned)
    async with database.pool.begin() as connection:
        if namespace_id is None:
            found = (await connection.scalars(select(WORKERS.c.namespace_id).where(*meant).limit(2))).all()
            if len(found) > 1:
                raise errors.WorkerAmbiguous(worker_id=worker_id)
            namespace_id = found[0] if found else 0
        beaten = update(WORKERS).where(*meant, WORKERS.c.namespace_id == namespace_id).values(heartbeat_time=now)
        return (await connection.execute(beaten)).rowcount > 0


async def page(  # noqa: PLR0917 - what is asked of one list
    database: Database,
    namespace_id: int,
    wanted: Filter | None,
    order: Order,
    place: tuple[Any, ...] | None,
    most: int,
) -> list[RegisteredWorker]:
    """Workers of a namespace that fit, after a place in that order. Reads the small table."""
    columns = named(WORKERS.c)
    query = (
        select(WORKERS)
        .where(WORKERS.c.namespace_id == namespace_id, ~WORKERS.c.condemned)
        .order_by(*sorting(order, columns, _BY_ID))
        .limit(most)
    )
    if wanted is not None:
        query = query.where(where(wanted, columns))
    if place is not None:
        query = query.where(after(order, columns, _BY_ID, place))
    async with database.pool.begin() as connection:
        return [RegisteredWorker(*row) for row in await connection.execute(query)]


def place_of(worker: RegisteredWorker, order: Order) -> tuple[Any, ...]:
    """Where a worker stands in that order."""
    return (*(getattr(worker, key.field) for key in order), worker.worker_id)


async def count_by_queue(database: Database, namespace_id: int) -> dict[str, int]:
    """How many workers of a namespace take from each queue. Reads the small table."""
    query = (
        select(WORKERS.c.task_queue, func.count())
        .where(WORKERS.c.namespace_id == namespace_id, ~WORKERS.c.condemned)
        .group_by(WORKERS.c.task_queue)
    )
    async with database.pool.begin() as connection:
        return {row[0]: row[1] for row in await connection.execute(query)}


async def condemn(database: Database, namespace_id: int, cutoff: datetime, most: int) -> list[str]:
    """Makes the removal of dead workers final: from here on no heartbeat revives them. Also those left half removed."""
    dead = (
        select(WORKERS.c.worker_id)
        .where(WORKERS.c.namespace_id == namespace_id, or_(WORKERS.c.condemned, WORKERS.c.heartbeat_time < cutoff))
        .order_by(WORKERS.c.worker_id)
        .limit(most)
        .with_for_update()
    )
    async with database.pool.begin() as connection:
        ids = list(await connection.scalars(dead))
        chosen = (WORKERS.c.namespace_id == namespace_id, WORKERS.c.worker_id.in_(ids))
        await connection.execute(update(WORKERS).where(*chosen).values(condemned=True))
    return ids


async def remove(database: Database, namespace_id: int, worker_ids: Sequence[str]) -> list[str]:
    """Forgets condemned workers; answers which, each for one caller. One that has registered again stays."""
    condemned = (
        select(WORKERS.c.worker_id)
        .where(WORKERS.c.namespace_id == namespace_id, WORKERS.c.worker_id.in_(worker_ids), WORKERS.c.condemned)
        .order_by(WORKERS.c.worker_id)
        .with_for_update()
    )
    async with database.pool.begin() as connection:
        # Locked in the order of `condemn`, whose callers would else meet this one crosswise.
        ids = list(await connection.scalars(condemned))
        gone = delete(WORKERS).where(WORKERS.c.namespace_id == namespace_id, WORKERS.c.worker_id.in_(ids))
        await connection.execute(gone)
    return ids


async def run_tasks_of(
    database: Database, namespace_id: int, worker_ids: Sequence[str], but_for: Collection[Held], most: int
) -> list[Held]:
    """Runs whose tasks workers have. Walks run_tasks_owner_idx."""
    query = (
        select(RUN_TASKS.c.run_key, RUN_TASKS.c.owner_id)
        .where(
            RUN_TASKS.c.namespace_id == namespace_id,
            RUN_TASKS.c.owner_id.in_(worker_ids),
            RUN_TASKS.c.run_key.not_in([held.key for held in but_for]),
        )
        .order_by(RUN_TASKS.c.claim_time)
        .limit(most)
    )
    async with database.pool.begin() as connection:
        return [Held(*row) for row in await connection.execute(query)]


async def activities_of(
    database: Database, namespace_id: int, worker_ids: Sequence[str], but_for: Collection[Held], most: int
) -> list[Held]:
    """RUNNING activities that workers have. Reads the small table of open steps: workers die rarely."""
    query = (
        select(STEPS.c.run_key, STEPS.c.ordinal, STEPS.c.owner_id)
        .join(RUNS, RUNS.c.run_key == STEPS.c.run_key)
        .where(
            STEPS.c.owner_id.in_(worker_ids),
            STEPS.c.kind == Kind.ACTIVITY,
            STEPS.c.state == StepState.RUNNING,
            STEPS.c.session_id.is_(None),
            RUNS.c.driven,
            RUNS.c.namespace_id == namespace_id,
        )
        .order_by(STEPS.c.run_key, STEPS.c.ordinal)
        .limit(most)
    )
    if but_for:
        last = max(held.key for held in but_for)
        query = query.where(tuple_(STEPS.c.run_key, STEPS.c.ordinal) > tuple_(*unpack(last)))
    async with database.pool.begin() as connection:
        return [Held(pack(row[0], row[1]), row[2]) for row in await connection.execute(query)]
