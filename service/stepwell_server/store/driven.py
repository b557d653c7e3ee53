"""Reading driven runs for the engines that drive them: what is due, what can be claimed, what waits for a worker.

These reads choose; the commands that follow look again at each run under its lock.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import func, or_, select

from stepwell_server.model.runs import Phase
from stepwell_server.model.steps import Kind, StepState
from stepwell_server.store.runs import OPEN_COLUMNS, SeenRun
from stepwell_server.store.schema import CLOSED_STEPS, RUN_TASKS, RUNS

if TYPE_CHECKING:
    from collections.abc import Collection

    from stepwell_server.store.database import Database


async def due_runs(
    database: Database, namespace_id: int, now: datetime, but_for: Collection[int], most: int
) -> list[int]:
    """Suspended runs whose time has come, earliest first. Walks runs_driven_wake_idx."""
    query = (
        select(RUNS.c.run_key)
        .where(
            RUNS.c.wake_time <= now,
            RUNS.c.namespace_id == namespace_id,
            RUNS.c.driven,
            RUNS.c.phase == Phase.SUSPENDED,
            RUNS.c.run_key.not_in(but_for),
        )
        .order_by(RUNS.c.wake_time, RUNS.c.run_key)
        .limit(most)
    )
    async with database.pool.begin() as connection:
        return list(await connection.scalars(query))


async def runnable_runs(  # noqa: PLR0917 - what is asked of one list
    database: Database, namespace_id: int, task_queue: str, now: datetime, after: int, most: int, skip: int
) -> list[SeenRun]:
    """Runs that a claim would get, oldest first, after a run key. Walks runs_namespace_idx."""
    query = select(*OPEN_COLUMNS).where(
        RUNS.c.namespace_id == namespace_id,
        RUNS.c.run_key > after,
        RUNS.c.driven,
        RUNS.c.phase.in_((Phase.PENDING, Phase.RUNNING)),
        RUNS.c.pause_reason.is_(None),
        or_(RUNS.c.owner_id == "", RUNS.c.lease_expire_time <= now),
    )
    if task_queue:
        query = query.where(RUNS.c.task_queue == task_queue)
    query = query.order_by(RUNS.c.run_key).limit(most).offset(skip)
    async with database.pool.begin() as connection:
        return [SeenRun(*row) for row in await connection.execute(query)]


async def cursors(database: Database, run_keys: Collection[int]) -> dict[int, int]:
    """How many distinct names of completed steps runs have, by key; those that have any."""
    query = (
        select(CLOSED_STEPS.c.run_key, func.count(CLOSED_STEPS.c.name.distinct()))
        .where(
            CLOSED_STEPS.c.run_key.in_(run_keys),
            CLOSED_STEPS.c.state == StepState.COMPLETED,
            CLOSED_STEPS.c.kind == Kind.LOCAL,
        )
        .group_by(CLOSED_STEPS.c.run_key)
    )
    if not run_keys:
        return {}
    async with database.pool.begin() as connection:
        return {row[0]: row[1] for row in await connection.execute(query)}


async def ready_tasks(
    database: Database, namespace_id: int, task_queue: str, but_for: Collection[int], most: int
) -> list[int]:
    """Dispatchable runs of a queue that no worker has, the longest waiting first. Walks run_tasks_claim_idx."""
    query = (
        select(RUN_TASKS.c.run_key)
        .where(
            RUN_TASKS.c.namespace_id == namespace_id,
            RUN_TASKS.c.task_queue == task_queue,
            RUN_TASKS.c.is_ready,
            RUN_TASKS.c.owner_id.is_(None),
            RUN_TASKS.c.run_key.not_in(but_for),
        )
        .order_by(RUN_TASKS.c.ready_time, RUN_TASKS.c.run_key)
        .limit(most)
    )
    async with database.pool.begin() as connection:
        return list(await connection.scalars(query))


async def stale_tasks(
    database: Database, namespace_id: int, before: datetime, but_for: Collection[int], most: int
) -> list[int]:
    """Runs whose task a worker has had since before a time. Walks run_tasks_owner_idx."""
    query = (
        select(RUN_TASKS.c.run_key)
        .where(
            RUN_TASKS.c.namespace_id == namespace_id,
            RUN_TASKS.c.owner_id.is_not(None),
            RUN_TASKS.c.claim_time < before,
            RUN_TASKS.c.run_key.not_in(but_for),
        )
        .order_by(RUN_TASKS.c.claim_time)
        .limit(most)
    )
    async with database.pool.begin() as connection:
        return list(await connection.scalars(query))
