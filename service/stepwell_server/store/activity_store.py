"""Reading activities of driven runs, and noting their heartbeats.

A heartbeat does not pass the committer: it is written beside the step, if that is RUNNING as it is seen. One that comes
too late is older than the attempt that began meanwhile, and counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from sqlalchemy import func, literal, select, tuple_, union_all
from sqlalchemy.dialects.postgresql import insert

from stepwell_server.model.payloads import Payload, pack_payload
from stepwell_server.model.steps import Kind, StepState
from stepwell_server.store.schema import CLOSED_RUNS, CLOSED_STEPS, HEARTBEATS, RUNS, STEPS
from stepwell_server.store.steps import CLOSED_COLUMNS, SeenStep, WholeStep, open_columns, pick, whole
from stepwell_server.telemetry import Subject

if TYPE_CHECKING:
    from stepwell_server.store.database import Database

_OPEN = len(SeenStep.__struct_fields__)


class Place(NamedTuple):
    """Where an activity stands among those that must be looked at."""

    wake_time: datetime
    run_key: int
    ordinal: int


class Overdue(NamedTuple):
    """An activity that must be looked at, with its claim's token and its run's names."""

    step: SeenStep
    token: int
    run_id: UUID
    workflow_id: str
    place: Place


class Beat(NamedTuple):
    """Whether a heartbeat was noted, and whether somebody wants the activity to stop."""

    recorded: bool
    cancel_requested: bool


class Claimed(NamedTuple):
    """An activity as spans tell of it: what it is, under its latest claim, and who has it; '' if it has ended."""

    about: Subject
    owner_id: str


async def claimed(database: Database, namespace_id: int | None, run_key: int, ordinal: int) -> Claimed | None:
    """What spans tell of an activity, open or ended. Walks runs_pkey and steps_pkey, and a partition's primary keys."""
    runs = union_all(
        *(
            select(table.c.run_id, table.c.namespace_id, table.c.traceparent, table.c.tracestate).where(
                table.c.run_key == run_key
            )
            for table in (RUNS, CLOSED_RUNS)
        )
    )
    steps = union_all(
        *(
            select(table.c.name, table.c.task_queue, table.c.attempt, table.c.grants, owner).where(
                table.c.run_key == run_key, table.c.ordinal == ordinal, table.c.kind == Kind.ACTIVITY
            )
            for table, owner in ((STEPS, STEPS.c.owner_id), (CLOSED_STEPS, literal("")))
        )
    )
    async with database.pool.begin() as connection:
        run, step = (await connection.execute(runs)).first(), (await connection.execute(steps)).first()
    if run is None or step is None or namespace_id not in (None, run.namespace_id):
        return None
    name, task_queue, attempt, grants, owner_id = step
    about = Subject(run.traceparent, run.tracestate, run.run_id, run_key, ordinal, grants, name, task_queue, attempt)
    return Claimed(about, owner_id)


async def read(database: Database, run_key: int, ordinal: int) -> WholeStep | None:
    """An activity with its payloads, or None. Walks steps_pkey, and the run's part of one partition's primary key."""
    either = union_all(
        open_columns().where(STEPS.c.run_key == run_key, STEPS.c.ordinal == ordinal),
        select(*CLOSED_COLUMNS).where(CLOSED_STEPS.c.run_key == run_key, CLOSED_STEPS.c.ordinal == ordinal),
    )
    async with database.pool.begin() as connection:
        rows = [SeenStep(*row) for row in await connection.execute(either)]
        seen = [row for row in rows if row.kind == Kind.ACTIVITY]
        return (await whole(connection, run_key, seen[:1]))[0] if seen else None


async def overdue(
    database: Database, namespace_id: int, now: datetime, after: Place | None, most: int
) -> list[Overdue]:
    """RUNNING activities whose first timeout may have passed, after a place.

    Walks steps_asked_wake_idx, and for managed runs steps_managed_wake_idx, where little is due; then runs_pkey.
    """
    place = (STEPS.c.wake_time, STEPS.c.run_key, STEPS.c.ordinal)
    query = (
        open_columns()
        .add_columns(STEPS.c.grants, RUNS.c.run_id, RUNS.c.workflow_id)
        .join(RUNS, RUNS.c.run_key == STEPS.c.run_key)
        .where(
            STEPS.c.wake_time <= now,
            STEPS.c.kind == Kind.ACTIVITY,
            STEPS.c.state == StepState.RUNNING,
            RUNS.c.driven,
            RUNS.c.namespace_id == namespace_id,
        )
        .order_by(*place)
        .limit(most)
    )
    if after is not None:
        query = query.where(tuple_(*place) > tuple_(*after))
    async with database.pool.begin() as connection:
        rows = [
            row
            for is_managed in (STEPS.c.managed, ~STEPS.c.managed)
            for row in await connection.execute(query.where(is_managed))
        ]
    found = [_overdue(SeenStep(*row[:_OPEN]), *row[_OPEN:]) for row in rows]
    return sorted(found, key=lambda each: each.place)[:most]


def _overdue(step: SeenStep, token: int, run_id: UUID, workflow_id: str) -> Overdue:
    place = Place(step.wake_time or step.create_time, step.run_key, step.ordinal)
    return Overdue(step, token, run_id, workflow_id, place)


async def payloads(database: Database, found: Sequence[Overdue], most_bytes: int) -> list[tuple[Overdue, WholeStep]]:
    """The first of the activities, as many as fit a page, with their payloads."""
    shown: list[tuple[Overdue, WholeStep]] = []
    async with database.pool.begin() as connection:
        for run_key, group in groupby(found, key=lambda each: each.step.run_key):
            members = list(group)
            page = await pick(connection, run_key, [each.step for each in members], len(members), most_bytes)
            shown += zip(members, page.steps, strict=False)
            most_bytes -= sum(_size(step) for step in page.steps)
            if page.has_more or most_bytes <= 0:
                break
    return shown


def _size(step: WholeStep) -> int:
    payloads_ = (step.input, step.result, step.heartbeat)
    return sum(len(payload.body) for payload in payloads_ if payload is not None)


async def beat(  # noqa: PLR0917 - the columns of one row, and whose it is
    database: Database,
    namespace_id: int | None,
    run_key: int,
    ordinal: int,
    token: int,
    now: datetime,
    details: Payload | None,
) -> Beat:
    """Notes a heartbeat of a RUNNING activity; `token` 0 is anybody's. Walks steps_pkey, runs_pkey, heartbeats_pkey."""
    held = (
        select(STEPS.c.cancel_requested | RUNS.c.cancel_time.is_not(None))
        .join(RUNS, RUNS.c.run_key == STEPS.c.run_key)
        .where(
            STEPS.c.run_key == run_key,
            STEPS.c.ordinal == ordinal,
            STEPS.c.kind == Kind.ACTIVITY,
            STEPS.c.state == StepState.RUNNING,
            RUNS.c.driven,
        )
    )
    if token:
        held = held.where(STEPS.c.grants == token)
    if namespace_id is not None:
        held = held.where(RUNS.c.namespace_id == namespace_id)
    row = insert(HEARTBEATS).values(run_key=run_key, ordinal=ordinal, beat_time=now, details=pack_payload(details))
    written = row.on_conflict_do_update(
        index_elements=["run_key", "ordinal"],
        set_={
            "beat_time": row.excluded.beat_time,
            "details": func.coalesce(row.excluded.details, HEARTBEATS.c.details),
        },
    )
    async with database.pool.begin() as connection:
        cancel_requested = await connection.scalar(held)
        if cancel_requested is None:
            return Beat(recorded=False, cancel_requested=False)
        await connection.execute(written)
    return Beat(recorded=True, cancel_requested=cancel_requested)
