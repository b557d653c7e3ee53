"""Reading runs for people, one by its name, open and closed alike. Lists are in `run_lists`.

A run is in `runs` or in `closed_runs`, never in both: one statement over both sees it once, also while it ends.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Select, cast, false, func, literal, null, select, union_all

from stepwell_server import errors
from stepwell_server.model.events import Attributes, payload_of, unpack_attributes
from stepwell_server.model.notices import FIRST_EVENT
from stepwell_server.model.order import Difference, unpack_differences
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.runs import NO_DETAILS, Phase, RunRef, input_event_of, unpack_details
from stepwell_server.model.search_attributes import AttributeValue
from stepwell_server.model.steps import StepState
from stepwell_server.store import search_attributes
from stepwell_server.store.schema import CLOSED_RUNS, CLOSED_STEPS, EVENTS, RUN_IDS, RUNS, TASKS, WORKFLOW_IDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.store.database import Database


ToldEvent = tuple[Any, ...]
"""The kind of an event's payload, its body, and the event's packed attributes."""


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
    queued: bool

    @property
    def is_closed(self) -> bool:
        """Whether it has ended."""
        return self.end_event > 0


class WholeRun(msgspec.Struct, frozen=True, gc=False):
    """A run with what it was given and what it came to. `ready_time` is set while its task waits."""

    run: SeenRun
    input: Payload
    result: Payload | None
    failure: Failure | None
    cursor: int
    suspension: Payload | None = None
    wake: Payload | None = None
    differences: tuple[Difference, ...] = ()
    ready_time: datetime | None = None
    last_failure: Failure | None = None
    search_attributes: dict[str, AttributeValue] = {}
    data: dict[str, Payload] = {}
    data_omitted: bool = False


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
    RUNS.c.queued,
]
CLOSED_COLUMNS: list[ColumnElement[Any]] = [
    *(CLOSED_RUNS.c[name] for name in _COMMON),
    literal("").label("owner_id"),
    CLOSED_RUNS.c.end_time.label("update_time"),
    cast(null(), RUNS.c.wake_time.type).label("lease_expire_time"),
    cast(null(), RUNS.c.wake_time.type).label("wake_time"),
    cast(null(), RUNS.c.pause_reason.type).label("pause_reason"),
    CLOSED_RUNS.c.end_time,
    CLOSED_RUNS.c.end_event,
    false().label("queued"),
]


async def find(database: Database, ref: RunRef) -> SeenRun:
    """The run that is meant. Refuses with RUN_NOT_FOUND or RUN_AMBIGUOUS."""
    async with database.pool.begin() as connection:
        return await find_in(connection, ref)


async def seek(database: Database, ref: RunRef) -> SeenRun | None:
    """The run that is meant, or None. Refuses with RUN_AMBIGUOUS."""
    async with database.pool.begin() as connection:
        return await seek_in(connection, ref)


async def find_in(connection: AsyncConnection, ref: RunRef) -> SeenRun:
    """The same as `find` within a transaction."""
    found = await seek_in(connection, ref)
    if found is None:
        raise errors.RunNotFound(namespace=ref.namespace, run_id=ref.label)
    return found


async def seek_in(connection: AsyncConnection, ref: RunRef) -> SeenRun | None:
    """The same as `seek` within a transaction."""
    wanted = keys(ref).subquery()
    found = union_all(
        select(*OPEN_COLUMNS).where(RUNS.c.run_key.in_(select(wanted))),
        select(*CLOSED_COLUMNS).where(CLOSED_RUNS.c.run_key.in_(select(wanted))),
    )
    rows = [SeenRun(*row) for row in await connection.execute(found)]
    if len(rows) > 1:
        raise errors.RunAmbiguous(run_id=ref.label)
    if not rows or ref.namespace_id not in (None, rows[0].namespace_id):
        return None
    return rows[0]


async def read(database: Database, ref: RunRef) -> WholeRun:
    """The run that is meant, with its payloads. Refuses with RUN_NOT_FOUND or RUN_AMBIGUOUS."""
    async with database.pool.begin() as connection:
        return await whole_in(connection, await find_in(connection, ref))


async def whole_in(connection: AsyncConnection, run: SeenRun) -> WholeRun:
    """A run with its payloads, within a transaction."""
    columns = (EVENTS.c.number, EVENTS.c.payload_kind, EVENTS.c.payload, EVENTS.c.attributes)
    told = select(*columns).where(EVENTS.c.run_key == run.run_key, EVENTS.c.number.in_(telling_events(run)))
    events = {number: tuple(row) for number, *row in await connection.execute(told)}
    steps = select(func.count(CLOSED_STEPS.c.name.distinct())).where(
        CLOSED_STEPS.c.run_key == run.run_key, CLOSED_STEPS.c.state == StepState.COMPLETED
    )
    cursor = (await connection.execute(steps)).scalar_one()
    attributes = (await search_attributes.of_runs_in(connection, [run])).get(run.run_key, {})
    return whole_of(run, events, cursor, attributes, await _ready_time(connection, run))


def telling_events(run: SeenRun) -> set[int]:
    """The numbers of the events that hold a run's payloads."""
    details = unpack_details(run.details)
    left = () if run.is_closed else (details.suspension_event, details.wake_event, details.pause_event)
    given = details.input_event or FIRST_EVENT
    return {given, run.end_event or given, *filter(None, (*left, details.failure_event))}


def whole_of(
    run: SeenRun,
    events: Mapping[int, ToldEvent],
    cursor: int,
    attributes: dict[str, AttributeValue],
    ready_time: datetime | None = None,
) -> WholeRun:
    """A run with what its telling events hold: of each kind, body and attributes."""
    details = NO_DETAILS if run.is_closed else unpack_details(run.details)
    left = (details.suspension_event, details.wake_event, details.pause_event)
    given, _ = _told(events.get(input_event_of(run.details)))
    last_failure = _told(events.get(unpack_details(run.details).failure_event))[1].failure
    if not run.is_closed:
        suspension, wake = (_told(events.get(number))[0] if number else None for number in left[:2])
        differences = unpack_differences(_told(events.get(left[2]))[0]) if left[2] else ()
        failure, last_failure = (last_failure, None) if run.driven else (None, last_failure)
        waiting = (suspension, wake, differences, ready_time)
        return WholeRun(run, given, None, failure, cursor, *waiting, last_failure, attributes)
    result, said = _told(events.get(run.end_event))
    # Of a run that was archived nobody knows here what it came to.
    returned = result if run.phase == Phase.COMPLETED and run.end_event in events else None
    last_failure = None if run.driven else last_failure
    return WholeRun(run, given, returned, said.failure, cursor, last_failure=last_failure, search_attributes=attributes)


async def _ready_time(connection: AsyncConnection, run: SeenRun) -> datetime | None:
    """Since when the run's own task waits, if it does."""
    if not run.queued:
        return None
    task = select(TASKS.c.ready_time).where(TASKS.c.run_key == run.run_key, TASKS.c.ordinal == 0)
    found: datetime | None = await connection.scalar(task)
    return found


def keys(ref: RunRef) -> Select[tuple[int]]:
    """The keys of the runs that are meant: more than one only where no namespace is named."""
    if ref.run_key is not None:
        return select(literal(ref.run_key).label("run_key"))
    table = RUN_IDS if ref.run_id is not None else WORKFLOW_IDS
    named = RUN_IDS.c.run_id == ref.run_id if ref.run_id is not None else WORKFLOW_IDS.c.workflow_id == ref.workflow_id
    query = select(table.c.run_key).where(named).limit(2)
    return query if ref.namespace_id is None else query.where(table.c.namespace_id == ref.namespace_id)


def _told(row: ToldEvent | None) -> tuple[Payload, Attributes]:
    if row is None:
        return NULL, Attributes()
    kind, body, packed = row
    attributes = unpack_attributes(packed)
    return payload_of(kind, body, attributes), attributes
