"""What of a run or a job waits in queues or is held by nobody any more, for those who ask why it does not move."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import literal, or_, select

from stepwell_server.store.leaders import lock_key
from stepwell_server.store.schema import JOBS, RUNS, SESSIONS, STEPS, TASKS
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import ColumnElement, Table

    from stepwell_server.store.database import Database

_LOCK = load("bundle")["read_leader_lock"]


async def queued(database: Database, run_key: int, ordinals: Collection[int]) -> dict[int, datetime]:
    """Since when the tasks of these steps wait for a worker; those that do not are absent. Walks tasks_pkey."""
    query = select(TASKS.c.ordinal, TASKS.c.ready_time).where(TASKS.c.run_key == run_key, TASKS.c.ordinal.in_(ordinals))
    async with database.pool.begin() as connection:
        return {row.ordinal: row.ready_time for row in await connection.execute(query)}


async def left(database: Database, run_key: int, now: datetime) -> set[int]:
    """The steps of a run, 0 being itself, that a session has which has expired and is still to give them back."""
    own = _left(RUNS, literal(0), RUNS.c.run_key == run_key, now)
    of_steps = _left(STEPS, STEPS.c.ordinal, STEPS.c.run_key == run_key, now)
    async with database.pool.begin() as connection:
        return {row[0] for row in await connection.execute(own.union_all(of_steps))}


async def is_job_left(database: Database, job_key: int, now: datetime) -> bool:
    """The same of a job."""
    async with database.pool.begin() as connection:
        return (await connection.execute(_left(JOBS, literal(0), JOBS.c.job_key == job_key, now))).first() is not None


async def is_led(database: Database, schema: str) -> bool:
    """Whether anybody has the leader's lock."""
    async with database.pool.begin() as connection:
        return (await connection.exec_driver_sql(_LOCK.sql, (lock_key(schema),))).first() is not None


def _left(table: Table, ordinal: ColumnElement[int], is_meant: ColumnElement[bool], now: datetime) -> Any:  # noqa: ANN401
    joined = table.outerjoin(SESSIONS, SESSIONS.c.session_id == table.c.session_id)
    is_gone = or_(SESSIONS.c.expire_time.is_(None), SESSIONS.c.expire_time <= now)
    return select(ordinal).select_from(joined).where(is_meant, table.c.session_id.is_not(None), is_gone)
