"""A run as one JSON document: what is archived, and what an export gives. Read and rendered a part at a time.

    {"format_version": 1, "run": {...}, "steps": [...], "events": [...], "rows": {"signals": [...], ...}}

`events` hold the payloads; `run` and `steps` refer to them by number. `rows` is everything else that goes with the run,
as it is stored, bytes in base64: whoever adds a table to `removal.TABLES` has it here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Table, select, tuple_

from stepwell_server.model.events import EventType, Origin, payload_of, unpack_attributes
from stepwell_server.model.payloads import DATA, JSON
from stepwell_server.model.runs import Phase, unpack_details
from stepwell_server.model.steps import Kind, StepState, unpack_step_details
from stepwell_server.store import events, removal
from stepwell_server.store.schema import CLOSED_STEPS, EVENTS, STEPS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from stepwell_server.model.events import Event
    from stepwell_server.model.payloads import Payload
    from stepwell_server.store.database import Database
    from stepwell_server.store.runs import SeenRun

FORMAT_VERSION = 1
_ROWS, _BYTES = 1_000, 1024 * 1024
_TOLD = {CLOSED_STEPS.name, EVENTS.name}
_encode = msgspec.json.Encoder().encode


async def bundle(database: Database, run: SeenRun, namespace: str) -> AsyncIterator[bytes]:
    """The document in parts of about a megabyte; larger where a single payload is."""
    parts: list[bytes] = []
    size = 0
    async for part in _written(database, run, namespace):
        parts.append(part)
        size += len(part)
        if size >= _BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    yield b"".join(parts)


async def _written(database: Database, run: SeenRun, namespace: str) -> AsyncIterator[bytes]:
    head = _encode({"format_version": FORMAT_VERSION, "run": _run(run, namespace)})
    yield head[:-1] + b',\n"steps": ['
    between = b"\n"
    for table in (CLOSED_STEPS, *(() if run.is_closed else (STEPS,))):
        async for row in _rows_of(database, table, run.run_key):
            yield between + _encode(_step(row))
            between = b",\n"
    yield b'],\n"events": ['
    between = b"\n"
    async for event in _events(database, run):
        yield between + _encode(_event(event))
        between = b",\n"
    yield b'],\n"rows": {'
    between = b""
    for table in removal.TABLES:
        if table.name in _TOLD:
            continue
        yield between + b'\n"%s": [' % table.name.encode()
        between, within = b",", b"\n"
        async for row in _rows_of(database, table, run.run_key):
            yield within + _encode(row)
            within = b",\n"
        yield b"]"
    yield b"}}\n"


async def _rows_of(database: Database, table: Table, run_key: int) -> AsyncIterator[dict[str, Any]]:
    """A run's rows of a table, by its primary key, a page at a time."""
    keys = [column for column in table.primary_key.columns if column.name != "run_key"]
    place: tuple[Any, ...] | None = None
    while True:
        query = select(table).where(table.c.run_key == run_key).order_by(*keys).limit(_ROWS)
        if place is not None:
            query = query.where(tuple_(*keys) > tuple_(*place))
        async with database.pool.begin() as connection:
            rows = (await connection.execute(query)).mappings().all()
        for row in rows:
            yield dict(row)
        if len(rows) < _ROWS or not keys:
            return
        place = tuple(rows[-1][column.name] for column in keys)


async def _events(database: Database, run: SeenRun) -> AsyncIterator[Event]:
    after = 0
    while after < run.last_event:
        page = await events.page(database, run.run_key, after=after, most=_ROWS, most_bytes=_BYTES, descending=False)
        for event in page.events:
            yield event
        if not page.has_more:
            return
        after = page.events[-1].number


def _run(run: SeenRun, namespace: str) -> dict[str, Any]:
    fields = ("run_id", "workflow_id", "type", "task_queue", "priority", "driven", "managed", "correlation_id")
    times = ("traceparent", "create_time", "end_time", "deadline", "cancel_time")
    return {
        "namespace": namespace,
        **{name: getattr(run, name) for name in (*fields, *times)},
        "phase": Phase(run.phase).name,
        "cancel_reason": run.cancel_reason,
        "version": run.version,
        "event_count": run.last_event,
        "end_event": run.end_event,
        "build_id": run.build_id,
        "details": unpack_details(run.details),
    }


def _step(row: dict[str, Any]) -> dict[str, Any]:
    left_out = {"run_key", "kind", "state", "details", "session_id", "returns", "grants"}
    return {
        **{name: value for name, value in row.items() if name not in left_out},
        "kind": Kind(row["kind"]).name,
        "state": StepState(row["state"]).name,
        "details": unpack_step_details(row["details"]),
    }


def _event(event: Event) -> dict[str, Any]:
    attributes = unpack_attributes(event.attributes)
    failure = attributes.failure
    told: dict[str, Any] = {
        "number": event.number,
        "type": event.caller_type if event.caller_type is not None else EventType(event.type).label,
        "origin": Origin(event.origin).name,
        "time": event.event_time,
        "step_ordinal": event.step_ordinal or None,
        "payload": _payload(payload_of(event.payload_kind, event.payload, attributes)),
        "failure": None if failure is None else {**_builtins(failure), "details": _payload(failure.details)},
        "attributes": attributes.facts,
        "caller_seq": event.caller_seq or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def _payload(payload: Payload | None) -> dict[str, Any] | None:
    """JSON as its text, to the letter; bytes in base64."""
    if payload is None or (not payload.kind and not payload.metadata):
        return None
    body: dict[str, Any] = {}
    if payload.kind == JSON:
        body = {"json": payload.body.decode()}
    elif payload.kind == DATA:
        body = {"data": payload.body}
    return {**body, **({"metadata": payload.metadata} if payload.metadata else {})}


def _builtins(value: msgspec.Struct) -> dict[str, Any]:
    names: Iterable[str] = value.__struct_fields__
    return {name: getattr(value, name) for name in names if getattr(value, name)}
