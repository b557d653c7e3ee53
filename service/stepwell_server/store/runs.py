"""Reading runs for people: one by its name, or a page of them, open and closed alike.

A run is in `runs` or in `closed_runs`, never in both: one statement over both sees it once, also while it ends.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Select, Table, cast, func, literal, null, select, union_all

from stepwell_server import errors
from stepwell_server.model.events import Attributes, payload_of, unpack_attributes
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.runs import NO_DETAILS, TERMINAL, Phase, RunRef, unpack_details
from stepwell_server.model.steps import StepState
from stepwell_server.store.schema import CLOSED_RUNS, CLOSED_STEPS, EVENTS, RUN_IDS, RUNS, WORKFLOW_IDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.store.database import Database

_INPUT_EVENT = 1


class SeenRun(msgspec.Struct, frozen=True, gc=False):
    """A run, open or closed, as far as people see it. `end_event` is 0 while it is open."""

    run_key: int
    namespace_id: int
    run_id: UUID
    workflow_id: str
    type: str
    task_queue: str
    priority: int
    driven: bool
    managed: bool
    correlation_id: str
    traceparent: str
    create_time: datetime
    deadline: datetime | None
    phase: int
    version: int
    last_event: int
    cancel_reason: str | None
    cancel_time: datetime | None
    build_id: str
    details: bytes | None
    owner_id: str
    update_time: datetime
    lease_expire_time: datetime | None
    wake_time: datetime | None
    pause_reason: str | None
    end_time: datetime | None
    end_event: int

    @property
    def is_closed(self) -> bool:
        """Whether it has ended."""
        return self.end_event > 0


class WholeRun(msgspec.Struct, frozen=True, gc=False):
    """A run with what it was given and what it came to."""

    run: SeenRun
    input: Payload
    result: Payload | None
    failure: Failure | None
    cursor: int
    suspension: Payload | None = None
    wake: Payload | None = None


class RunFilter(msgspec.Struct, frozen=True, gc=False):
    """Which runs to list; what is None or empty does not filter."""

    namespace_id: int
    phases: tuple[int, ...] = ()
    type: str = ""
    workflow_id: str = ""
    parent_run_id: UUID | None = None
    task_queue: str = ""
    correlation_id: str = ""
    driven: bool | None = None


_COMMON = SeenRun.__struct_fields__[: SeenRun.__struct_fields__.index("owner_id")]
OPEN_COLUMNS: list[ColumnElement[Any]] = [
    *(RUNS.c[name] for name in _COMMON),
    RUNS.c.owner_id,
    RUNS.c.update_time,
    RUNS.c.lease_expire_time,
    RUNS.c.wake_time,
    RUNS.c.pause_reason,
    cast(null(), RUNS.c.wake_time.type).label("end_time"),
    literal(0).label("end_event"),
]
_CLOSED: list[ColumnElement[Any]] = [
    *(CLOSED_RUNS.c[name] for name in _COMMON),
    literal("").label("owner_id"),
    CLOSED_RUNS.c.end_time.label("update_time"),
    cast(null(), RUNS.c.wake_time.type).label("lease_expire_time"),
    cast(null(), RUNS.c.wake_time.type).label("wake_time"),
    cast(null(), RUNS.c.pause_reason.type).label("pause_reason"),
    CLOSED_RUNS.c.end_time,
    CLOSED_RUNS.c.end_event,
]


async def find(database: Database, ref: RunRef) -> SeenRun:
    """The run that is meant. Refuses with RUN_NOT_FOUND or RUN_AMBIGUOUS."""
    async with database.pool.begin() as connection:
        return await find_in(connection, ref)


async def seek(database: Database, ref: RunRef) -> SeenRun | None:
    """The run that is meant, or None. Refuses with RUN_AMBIGUOUS."""
    async with database.pool.begin() as connection:
        return await _seek_in(connection, ref)


async def find_in(connection: AsyncConnection, ref: RunRef) -> SeenRun:
    """The same as `find` within a transaction."""
    found = await _seek_in(connection, ref)
    if found is None:
        raise errors.RunNotFound(namespace=ref.namespace, run_id=ref.label)
    return found


async def _seek_in(connection: AsyncConnection, ref: RunRef) -> SeenRun | None:
    keys = _keys(ref).subquery()
    found = union_all(
        select(*OPEN_COLUMNS).where(RUNS.c.run_key.in_(select(keys))),
        select(*_CLOSED).where(CLOSED_RUNS.c.run_key.in_(select(keys))),
    )
    rows = [SeenRun(*row) for row in await connection.execute(found)]
    if len(rows) > 1:
        raise errors.RunAmbiguous(run_id=ref.label)
    if not rows or ref.namespace_id not in (None, rows[0].namespace_id):
        return None
    return rows[0]


async def read(database: Database, ref: RunRef) -> WholeRun:
    """The run that is meant, with its payloads."""
    async with database.pool.begin() as connection:
        run = await find_in(connection, ref)
        details = NO_DETAILS if run.is_closed else unpack_details(run.details)
        left = (details.suspension_event, details.wake_event, details.failure_event)
        numbers = {_INPUT_EVENT, run.end_event or _INPUT_EVENT, *filter(None, left)}
        columns = (EVENTS.c.number, EVENTS.c.payload_kind, EVENTS.c.payload, EVENTS.c.attributes)
        told = select(*columns).where(EVENTS.c.run_key == run.run_key, EVENTS.c.number.in_(numbers))
        events = {number: row for number, *row in await connection.execute(told)}
        steps = select(func.count(CLOSED_STEPS.c.name.distinct())).where(
            CLOSED_STEPS.c.run_key == run.run_key, CLOSED_STEPS.c.state == StepState.COMPLETED
        )
        cursor = (await connection.execute(steps)).scalar_one()
    given, _ = _told(events.get(_INPUT_EVENT))
    if not run.is_closed:
        suspension, wake = (_told(events[number])[0] if number else None for number in left[:2])
        failure = _told(events[details.failure_event])[1].failure if details.failure_event else None
        return WholeRun(run, given, None, failure, cursor, suspension, wake)
    result, said = _told(events.get(run.end_event))
    return WholeRun(run, given, result if run.phase == Phase.COMPLETED else None, said.failure, cursor)


async def page(database: Database, wanted: RunFilter, before: int | None, most: int, skip: int) -> list[SeenRun]:
    """Runs that fit, newest first, before a run key."""
    async with database.pool.begin() as connection:
        parent_key: int | None = None
        if wanted.parent_run_id is not None:
            parent = _keys(RunRef(wanted.namespace_id, "", run_id=wanted.parent_run_id))
            parent_key = await connection.scalar(parent)
            if parent_key is None:
                return []
        parts = [
            select(*columns)
            .where(*_conditions(table, wanted, parent_key, before))
            .order_by(table.c.run_key.desc())
            .limit(most + skip)
            .subquery()
            for table, columns, phases in (
                (RUNS, OPEN_COLUMNS, set(Phase) - TERMINAL),
                (CLOSED_RUNS, _CLOSED, TERMINAL),
            )
            if not wanted.phases or phases.intersection(wanted.phases)
        ]
        merged = union_all(*(select(part) for part in parts)).subquery()
        query = select(merged).order_by(merged.c.run_key.desc()).limit(most).offset(skip)
        return [SeenRun(*row) for row in await connection.execute(query)]


def _conditions(
    table: Table, wanted: RunFilter, parent_key: int | None, before: int | None
) -> Sequence[ColumnElement[bool]]:
    conditions = [table.c.namespace_id == wanted.namespace_id]
    if before is not None:
        conditions.append(table.c.run_key < before)
    if wanted.phases:
        conditions.append(table.c.phase.in_(wanted.phases))
    if parent_key is not None:
        conditions.append(table.c.parent_key == parent_key)
    if wanted.driven is not None:
        conditions.append(table.c.driven == wanted.driven)
    texts = {name: getattr(wanted, name) for name in ("type", "workflow_id", "task_queue", "correlation_id")}
    return [*conditions, *(table.c[name] == text for name, text in texts.items() if text)]


def _keys(ref: RunRef) -> Select[tuple[int]]:
    """The keys of the runs that are meant: more than one only where no namespace is named."""
    if ref.run_key is not None:
        return select(literal(ref.run_key).label("run_key"))
    table = RUN_IDS if ref.run_id is not None else WORKFLOW_IDS
    named = RUN_IDS.c.run_id == ref.run_id if ref.run_id is not None else WORKFLOW_IDS.c.workflow_id == ref.workflow_id
    query = select(table.c.run_key).where(named).limit(2)
    return query if ref.namespace_id is None else query.where(table.c.namespace_id == ref.namespace_id)


def _told(row: list[Any] | None) -> tuple[Payload, Attributes]:
    if row is None:
        return NULL, Attributes()
    kind, body, packed = row
    attributes = unpack_attributes(packed)
    return payload_of(kind, body, attributes), attributes
