"""Calls of runs: who could answer them, those that wait, and what is recorded of updates. All of it is cold."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Row,
    cast,
    delete,
    exists,
    false,
    insert,
    null,
    select,
    true,
    union_all,
    update,
)

from stepwell_server import errors
from stepwell_server.model.events import payload_of, unpack_attributes
from stepwell_server.model.payloads import pack_payload, unpack_payload
from stepwell_server.model.run_calls import (
    ACCEPTANCE,
    OUTCOME,
    UPDATES,
    CallAnswer,
    CallKind,
    RunCall,
    pack_answer,
    unpack_answer,
)
from stepwell_server.model.runs import unpack_details
from stepwell_server.model.steps import unpack_step_details
from stepwell_server.store.runs import keys
from stepwell_server.store.schema import CLOSED_RUNS, CLOSED_STEPS, EVENTS, RUN_CALLS, RUNS

if TYPE_CHECKING:
    from collections.abc import Collection

    from stepwell_server.model.runs import RunRef
    from stepwell_server.store.database import Database

_MOST_ROWS = 1_000


class CalledRun(NamedTuple):
    """A run, as far as it matters to who calls it."""

    run_key: int
    namespace_id: int
    run_id: UUID
    phase: int
    driven: bool
    session_id: UUID | None
    grants: int
    queued: bool
    pause_reason: str | None
    is_closed: bool
    continued_key: int = 0  # of an ended run that goes on as another


class RecordedUpdate(NamedTuple):
    """What is recorded of an update. `outcome` is None while it goes on."""

    name: str
    outcome: CallAnswer | None


_OPEN: list[ColumnElement[Any]] = [
    *(RUNS.c[name] for name in CalledRun._fields[: CalledRun._fields.index("is_closed")]),
    false().label("is_closed"),
    cast(null(), RUNS.c.details.type).label("details"),
]
_CLOSED: list[ColumnElement[Any]] = [
    *(CLOSED_RUNS.c[name] for name in CalledRun._fields[: CalledRun._fields.index("session_id")]),
    cast(null(), RUNS.c.session_id.type).label("session_id"),
    CLOSED_RUNS.c.grants,
    false().label("queued"),
    cast(null(), RUNS.c.pause_reason.type).label("pause_reason"),
    true().label("is_closed"),
    CLOSED_RUNS.c.details,
]
_CALL = [RUN_CALLS.c[name] for name in RunCall.__struct_fields__]


async def find(database: Database, ref: RunRef) -> CalledRun:
    """The run that is meant. Refuses with RUN_NOT_FOUND or RUN_AMBIGUOUS."""
    wanted = keys(ref).subquery()
    found = union_all(
        select(*_OPEN).where(RUNS.c.run_key.in_(select(wanted))),
        select(*_CLOSED).where(CLOSED_RUNS.c.run_key.in_(select(wanted))),
    )
    async with database.pool.begin() as connection:
        rows = [
            CalledRun(*row[:-1])._replace(continued_key=unpack_details(row[-1]).continued_key)
            for row in await connection.execute(found)
        ]
    if len(rows) > 1:
        raise errors.RunAmbiguous(run_id=ref.label)
    if not rows or ref.namespace_id not in (None, rows[0].namespace_id):
        raise errors.RunNotFound(namespace=ref.namespace, run_id=ref.label)
    return rows[0]


async def read_update(database: Database, run_key: int, update_id: str) -> RecordedUpdate | None:
    """What is recorded of an update, or None if it is not accepted. Walks closed_steps_pkey, then events_pkey."""
    steps = CLOSED_STEPS.c
    query = (
        select(steps.name, steps.details, EVENTS.c.payload_kind, EVENTS.c.payload, EVENTS.c.attributes)
        .join(EVENTS, (EVENTS.c.run_key == steps.run_key) & (EVENTS.c.number == steps.end_event))
        .where(
            steps.run_key == run_key,
            steps.scope == UPDATES,
            steps.name.in_((ACCEPTANCE, OUTCOME)),
            steps.occurrence == 0,
            steps.key == update_id,
        )
    )
    async with database.pool.begin() as connection:
        rows = {row.name: row for row in await connection.execute(query)}
    accepted = rows.get(ACCEPTANCE)
    if accepted is None:
        return None
    name, ended = unpack_step_details(accepted.details).update_name, rows.get(OUTCOME)
    if ended is None:
        return RecordedUpdate(name, None)
    attributes = unpack_attributes(ended.attributes)
    return RecordedUpdate(
        name, CallAnswer(payload_of(ended.payload_kind, ended.payload, attributes), attributes.failure)
    )


# --- calls that wait --------------------------------------------------------------------------------------------------


async def add(database: Database, call: RunCall) -> None:
    """Lets a call wait for whoever has the run, or gets it."""
    values = {name: getattr(call, name) for name in RunCall.__struct_fields__} | {"input": pack_payload(call.input)}
    async with database.pool.begin() as connection:
        await connection.execute(insert(RUN_CALLS).values(**values))


async def waiting(
    database: Database, now: datetime, run_keys: Collection[int] | None = None, kind: CallKind | None = None
) -> list[RunCall]:
    """Calls without an answer, in the order of their making: of all runs, or of some."""
    query = select(*_CALL).where(RUN_CALLS.c.answer.is_(None), RUN_CALLS.c.expire_time > now)
    if run_keys is not None:
        query = query.where(RUN_CALLS.c.run_key.in_(run_keys))
    if kind is not None:
        query = query.where(RUN_CALLS.c.kind == kind)
    query = query.order_by(RUN_CALLS.c.call_id).limit(_MOST_ROWS)
    async with database.pool.begin() as connection:
        return [_call(row) for row in await connection.execute(query)]


def _call(row: Row[Any]) -> RunCall:
    return RunCall(
        row.call_id, row.run_key, row.kind, row.name, row.update_id, unpack_payload(row.input), row.expire_time
    )


async def answer(database: Database, call: RunCall, session_id: UUID, token: int, said: CallAnswer) -> None:
    """Answers a query, if it was the run's holder who did."""
    holds = exists().where(RUNS.c.run_key == call.run_key, RUNS.c.session_id == session_id, RUNS.c.grants == token)
    query = update(RUN_CALLS).where(RUN_CALLS.c.call_id == call.call_id, RUN_CALLS.c.answer.is_(None), holds)
    async with database.pool.begin() as connection:
        await connection.execute(query.values(answer=pack_answer(said)))


async def reject(database: Database, run_key: int, update_id: str, said: CallAnswer) -> None:
    """Answers all who wait for an update that its run did not accept."""
    query = update(RUN_CALLS).where(
        RUN_CALLS.c.run_key == run_key, RUN_CALLS.c.update_id == update_id, RUN_CALLS.c.answer.is_(None)
    )
    async with database.pool.begin() as connection:
        await connection.execute(query.values(answer=pack_answer(said)))


async def read_answer(database: Database, call_id: UUID) -> CallAnswer | None:
    """What was answered to a call that waits."""
    async with database.pool.begin() as connection:
        packed = await connection.scalar(select(RUN_CALLS.c.answer).where(RUN_CALLS.c.call_id == call_id))
    return unpack_answer(packed) if packed is not None else None


async def remove(database: Database, call_id: UUID) -> None:
    """Forgets a call: nobody waits for it any more."""
    async with database.pool.begin() as connection:
        await connection.execute(delete(RUN_CALLS).where(RUN_CALLS.c.call_id == call_id))
