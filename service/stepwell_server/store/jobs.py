"""Reading jobs for people: one by its id, or a page of them, open and closed alike.

A job is in `jobs` or in `closed_jobs`, never in both: one statement over both sees it once, also while it ends.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Select, Table, cast, literal_column, null, select, union_all

from stepwell_server import errors
from stepwell_server.model.jobs import JOB_ENDED, JOB_ORDINAL, JobRef
from stepwell_server.model.payloads import Failure, Payload, unpack_failure, unpack_payload
from stepwell_server.model.steps import StepState
from stepwell_server.store.schema import CLOSED_JOBS, HEARTBEATS, JOB_IDS, JOB_INPUTS, JOBS, TASKS, UNIQUE_JOBS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.store.database import Database


class SeenJob(msgspec.Struct, frozen=True, gc=False):
    """A job, open or closed, as far as people see it. `end_time` is None while it is open."""

    job_key: int
    namespace_id: int
    job_id: UUID
    unique_key: str
    type: str
    task_queue: str
    priority: int
    correlation_id: str
    traceparent: str
    create_time: datetime
    retention_seconds: float
    schedule_time: datetime
    state: int
    attempt: int
    start_time: datetime | None
    cancel_reason: str | None
    cancel_time: datetime | None
    retries: int
    details: bytes | None
    owner_id: str
    wake_time: datetime | None
    end_time: datetime | None
    expire_time: datetime | None

    @property
    def is_closed(self) -> bool:
        """Whether it has ended."""
        return self.end_time is not None


class WholeJob(msgspec.Struct, frozen=True, gc=False):
    """A job with what it was given and what it came to. `ready_time` is set while its task waits."""

    job: SeenJob
    input: Payload
    result: Payload | None
    failure: Failure | None
    beat_time: datetime | None
    heartbeat: Payload | None
    ready_time: datetime | None = None


class JobFilter(msgspec.Struct, frozen=True, gc=False):
    """Which jobs to list; what is empty does not filter."""

    namespace_id: int
    states: tuple[int, ...] = ()
    type: str = ""
    task_queue: str = ""
    unique_key: str = ""
    correlation_id: str = ""


_COMMON = SeenJob.__struct_fields__[: SeenJob.__struct_fields__.index("owner_id")]
_NO_TIME = cast(null(), JOBS.c.wake_time.type)
_OPEN: list[ColumnElement[Any]] = [
    *(JOBS.c[name] for name in _COMMON),
    JOBS.c.owner_id,
    JOBS.c.wake_time,
    _NO_TIME.label("end_time"),
    _NO_TIME.label("expire_time"),
]
_CLOSED: list[ColumnElement[Any]] = [
    *(CLOSED_JOBS.c[name] for name in _COMMON),
    CLOSED_JOBS.c.owner_id,
    _NO_TIME.label("wake_time"),
    CLOSED_JOBS.c.end_time,
    CLOSED_JOBS.c.expire_time,
]


async def find(database: Database, ref: JobRef) -> SeenJob:
    """The job that is meant. Refuses with JOB_NOT_FOUND."""
    async with database.pool.begin() as connection:
        return await _find_in(connection, ref)


async def _find_in(connection: AsyncConnection, ref: JobRef) -> SeenJob:
    key = ref.job_key
    if key is None:
        asked = select(JOB_IDS.c.job_key).where(
            JOB_IDS.c.job_id == ref.job_id, JOB_IDS.c.namespace_id == ref.namespace_id
        )
        key = await connection.scalar(asked)
    if key is not None:
        found = union_all(
            select(*_OPEN).where(JOBS.c.job_key == key), select(*_CLOSED).where(CLOSED_JOBS.c.job_key == key)
        )
        for row in await connection.execute(found):
            return SeenJob(*row)
    raise errors.JobNotFound(namespace=ref.namespace, job_id=ref.label)


async def read(database: Database, ref: JobRef) -> WholeJob:
    """The job that is meant, with its payloads."""
    async with database.pool.begin() as connection:
        job = await _find_in(connection, ref)
        given = await connection.scalar(select(JOB_INPUTS.c.input).where(JOB_INPUTS.c.job_key == job.job_key))
        if not job.is_closed:
            beaten = select(HEARTBEATS.c.beat_time, HEARTBEATS.c.details).where(
                HEARTBEATS.c.run_key == job.job_key, HEARTBEATS.c.ordinal == JOB_ORDINAL
            )
            beat_time, details = (await connection.execute(beaten)).one_or_none() or (None, None)
            heartbeat = unpack_payload(details) if details is not None else None
            waits = select(TASKS.c.ready_time).where(TASKS.c.run_key == job.job_key, TASKS.c.ordinal == JOB_ORDINAL)
            ready_time = await connection.scalar(waits)
            return WholeJob(job, unpack_payload(given), None, None, beat_time, heartbeat, ready_time)
        came = select(CLOSED_JOBS.c.result, CLOSED_JOBS.c.failure).where(CLOSED_JOBS.c.job_key == job.job_key)
        result, failure = (await connection.execute(came)).one_or_none() or (None, None)
    return WholeJob(job, unpack_payload(given), unpack_payload(result), unpack_failure(failure), None, None)


async def page(database: Database, wanted: JobFilter, before: int | None, most: int, skip: int) -> list[SeenJob]:
    """Jobs that fit, newest first, before a key."""
    async with database.pool.begin() as connection:
        return [SeenJob(*row) for row in await connection.execute(page_query(wanted, before, most, skip))]


def page_query(wanted: JobFilter, before: int | None, most: int, skip: int) -> Select[Any]:
    """What `page` asks. By a unique key, and for those that did not complete, it looks at no others."""
    parts = [
        select(*columns)
        .where(*_conditions(table, wanted, before))
        .order_by(table.c.job_key.desc())
        .limit(most + skip)
        .subquery()
        for table, columns, is_ended in ((JOBS, _OPEN, False), (CLOSED_JOBS, _CLOSED, True))
        if not wanted.states or any((state in JOB_ENDED) is is_ended for state in wanted.states)
    ]
    merged = union_all(*(select(part) for part in parts)).subquery()
    return select(merged).order_by(merged.c.job_key.desc()).limit(most).offset(skip)


def _conditions(table: Table, wanted: JobFilter, before: int | None) -> Sequence[ColumnElement[bool]]:
    conditions = [table.c.namespace_id == wanted.namespace_id]
    if before is not None:
        conditions.append(table.c.job_key < before)
    if wanted.states:
        conditions.append(table.c.state.in_(wanted.states))
        if table is CLOSED_JOBS and StepState.COMPLETED not in wanted.states:
            conditions.append(table.c.state > literal_column(str(int(StepState.COMPLETED))))
    if wanted.unique_key:
        conditions.append(table.c.unique_key == wanted.unique_key)
        # An open one is the latest of its key.
        conditions.append(table.c.unique_key != "" if table is CLOSED_JOBS else table.c.job_key.in_(_latest_of(wanted)))
    texts = {name: getattr(wanted, name) for name in ("type", "task_queue", "correlation_id")}
    return [*conditions, *(table.c[name] == text for name, text in texts.items() if text)]


def _latest_of(wanted: JobFilter) -> Select[tuple[int]]:
    return select(UNIQUE_JOBS.c.job_key).where(
        UNIQUE_JOBS.c.unique_key == wanted.unique_key, UNIQUE_JOBS.c.namespace_id == wanted.namespace_id
    )
