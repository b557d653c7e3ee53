"""What is due, and when the next is."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from stepwell_server.model.jobs import JOB_ORDINAL
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from stepwell_server.store.connection import Connection

STEPS, RUNS, JOBS, TIMERS = load("steps"), load("runs"), load("jobs"), load("timers")


class Due(NamedTuple):
    """A step whose time has come, or (ordinal 0) a run, or (JOB_ORDINAL) a job."""

    run_key: int
    ordinal: int
    namespace_id: int
    wake_time: datetime


async def read_due_steps(connection: Connection, now: datetime, most: int) -> list[Due]:
    """Steps of managed runs whose time has come, earliest first."""
    return [Due(*row) for row in await connection.fetch(STEPS["read_due_steps"], now, most)]


async def read_due_runs(connection: Connection, now: datetime, most: int) -> list[Due]:
    """Managed runs whose time has come, earliest first."""
    return [Due(row[0], 0, *row[1:]) for row in await connection.fetch(RUNS["read_due_runs"], now, most)]


async def read_due_jobs(connection: Connection, now: datetime, most: int) -> list[Due]:
    """Jobs whose time has come, earliest first."""
    return [Due(row[0], JOB_ORDINAL, *row[1:]) for row in await connection.fetch(JOBS["read_due_jobs"], now, most)]


async def next_step_after(connection: Connection, now: datetime) -> datetime | None:
    """When the next step is due."""
    time: datetime | None = await connection.fetchval(TIMERS["next_step_after"], now)
    return time


async def next_run_after(connection: Connection, now: datetime) -> datetime | None:
    """When the next run is due."""
    time: datetime | None = await connection.fetchval(TIMERS["next_run_after"], now)
    return time


async def next_job_after(connection: Connection, now: datetime) -> datetime | None:
    """When the next job is due."""
    time: datetime | None = await connection.fetchval(JOBS["next_job_after"], now)
    return time
