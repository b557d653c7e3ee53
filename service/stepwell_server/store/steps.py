"""Reading a run's steps for people, open and ended in one order, bounded in number and in bytes."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import ColumnElement, Select, Table, cast, func, literal, null, select, union_all

from stepwell_server.model.events import payload_of, unpack_attributes
from stepwell_server.model.filters import Filter
from stepwell_server.model.orders import Order, SortKey
from stepwell_server.model.payloads import Failure, Payload, unpack_payload
from stepwell_server.model.steps import ENDED, Kind, StepState
from stepwell_server.store.filters import NEVER, Columns, after, named, sorting, where
from stepwell_server.store.schema import CLOSED_STEPS, EVENTS, HEARTBEATS, STEPS

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.store.database import Database


class SeenStep(msgspec.Struct, frozen=True, gc=False):
    """A step, open or ended, as far as people see it. `end_event` is 0 while it is open."""

    run_key: int
    ordinal: int
    scope: str
    name: str
    occurrence: int
    key: str
    kind: int
    type: str
    task_queue: str
    wait_name: str | None
    seq: int
    create_time: datetime
    input_event: int
    state: int
    attempt: int
    start_time: datetime | None
    details: bytes | None
    owner_id: str
    wake_time: datetime | None
    end_time: datetime | None
    end_event: int
    beat_time: datetime | None
    beat: bytes | None

    @property
    def schedule_time(self) -> datetime:
        """From when on its timeouts count."""
        return self.create_time

    @property
    def events(self) -> tuple[int, int]:
        """The events that hold what it was given and what it came to, 0 for none. A wait is given nothing."""
        if self.kind == Kind.WAIT:
            return 0, (self.input_event or self.end_event) if self.end_event else 0
        return self.input_event, self.end_event


class WholeStep(msgspec.Struct, frozen=True, gc=False):
    """A step with its payloads. The result of one that was skipped is how that was found out."""

    step: SeenStep
    input: Payload | None
    result: Payload | None
    failure: Failure | None
    heartbeat: Payload | None


class StepPage(msgspec.Struct, frozen=True):
    """Steps, and whether there are more."""

    steps: list[WholeStep]
    has_more: bool


class StepFilter(msgspec.Struct, frozen=True):
    """Which steps to list, and in which order; what is empty does not filter."""

    states: tuple[int, ...] = ()
    where: Filter | None = None
    order: Order = ()


Told = tuple[Payload, Failure | None]
_COMMON = SeenStep.__struct_fields__[: SeenStep.__struct_fields__.index("owner_id")]
_NO_TIME = cast(null(), STEPS.c.wake_time.type)
_NO_BYTES = cast(null(), STEPS.c.details.type)
_OPEN: list[ColumnElement[Any]] = [
    *(STEPS.c[name] for name in _COMMON),
    STEPS.c.owner_id,
    STEPS.c.wake_time,
    _NO_TIME.label("end_time"),
    literal(0).label("end_event"),
    HEARTBEATS.c.beat_time,
    HEARTBEATS.c.details.label("beat"),
]
CLOSED_COLUMNS: list[ColumnElement[Any]] = [
    *(CLOSED_STEPS.c[name] for name in _COMMON),
    literal("").label("owner_id"),
    _NO_TIME.label("wake_time"),
    CLOSED_STEPS.c.end_time,
    CLOSED_STEPS.c.end_event,
    _NO_TIME.label("beat_time"),
    _NO_BYTES.label("beat"),
]
_BY_ORDINAL = SortKey("ordinal")
_OPEN_COMPLETION = 2**31 - 1  # no event has such a number
_BEATEN = STEPS.outerjoin(
    HEARTBEATS, (HEARTBEATS.c.run_key == STEPS.c.run_key) & (HEARTBEATS.c.ordinal == STEPS.c.ordinal)
)


async def page(  # noqa: PLR0917 - what is asked of one list
    database: Database, run_key: int, wanted: StepFilter, place: tuple[Any, ...] | None, most: int, most_bytes: int
) -> StepPage:
    """Steps of one run that fit, after a place in the order asked for; fewer where they are large, but at least one."""
    async with database.pool.begin() as connection:
        steps = [SeenStep(*row) for row in await connection.execute(_page(run_key, wanted, place, most + 1))]
        return await pick(connection, run_key, steps, most, most_bytes)


def place_of(step: SeenStep, order: Order) -> tuple[Any, ...]:
    """Where a step stands in that order."""
    return (*(_value(step, key.field) for key in order), step.ordinal)


def _value(step: SeenStep, field: str) -> Any:  # noqa: ANN401 - any kind of value
    if field == "completion":
        return step.end_event or _OPEN_COMPLETION
    value = getattr(step, field)
    return NEVER if value is None else value


async def pick(
    connection: AsyncConnection, run_key: int, steps: list[SeenStep], most: int, most_bytes: int
) -> StepPage:
    """The first of the steps, as many as fit a page, with their payloads."""
    sizes = await _sizes(connection, run_key, {number for step in steps for number in step.events if number})
    shown = _fitting(steps[:most], sizes, most_bytes)
    return StepPage(await whole(connection, run_key, shown), len(shown) < len(steps))


async def whole(connection: AsyncConnection, run_key: int, steps: list[SeenStep]) -> list[WholeStep]:
    """Steps with their payloads."""
    told = await told_by(connection, run_key, {number for step in steps for number in step.events if number})
    return [_whole(step, told) for step in steps]


def open_columns() -> Select[Any]:
    """Open steps with their heartbeats."""
    return select(*_OPEN).select_from(_BEATEN)


def _page(run_key: int, wanted: StepFilter, place: tuple[Any, ...] | None, most: int) -> Select[Any]:
    parts = []
    for query, table, states in ((open_columns(), STEPS, set(StepState) - ENDED), (_closed(), CLOSED_STEPS, ENDED)):
        if not wanted.states or states & set(wanted.states):
            parts.append(select(_part(query, table, run_key, wanted, place).limit(most).subquery()))
    merged = union_all(*parts).subquery()
    return select(merged).order_by(*sorting(wanted.order, _sortable(named(merged.c)), _BY_ORDINAL)).limit(most)


def _part(
    query: Select[Any], table: Table, run_key: int, wanted: StepFilter, place: tuple[Any, ...] | None
) -> Select[Any]:
    columns = named(_OPEN if table is STEPS else CLOSED_COLUMNS)
    query = query.where(table.c.run_key == run_key)
    if wanted.states:
        query = query.where(table.c.state.in_(wanted.states))
    if wanted.where is not None:
        query = query.where(where(wanted.where, {**columns, "completion": columns["end_event"]}))
    if place is not None:
        query = query.where(after(wanted.order, _sortable(columns), _BY_ORDINAL, place))
    return query.order_by(*sorting(wanted.order, _sortable(columns), _BY_ORDINAL))


def _sortable(columns: Columns) -> Columns:
    """None of these is null: what has not happened yet comes last."""
    times = {name: func.coalesce(columns[name], literal(NEVER, _NO_TIME.type)) for name in ("start_time", "end_time")}
    completion = func.coalesce(func.nullif(columns["end_event"], 0), _OPEN_COMPLETION)
    return {**columns, **times, "completion": completion}


def _closed() -> Select[Any]:
    return select(*CLOSED_COLUMNS)


async def _sizes(connection: AsyncConnection, run_key: int, numbers: set[int]) -> dict[int, int]:
    if not numbers:
        return {}
    size = func.coalesce(func.octet_length(EVENTS.c.payload), 0) + func.coalesce(
        func.octet_length(EVENTS.c.attributes), 0
    )
    query = select(EVENTS.c.number, size).where(EVENTS.c.run_key == run_key, EVENTS.c.number.in_(numbers))
    return {row[0]: row[1] for row in await connection.execute(query)}


def _fitting(steps: list[SeenStep], sizes: dict[int, int], most_bytes: int) -> list[SeenStep]:
    total = 0
    for place, step in enumerate(steps):
        total += sum(sizes.get(number, 0) for number in step.events) + len(step.details or b"") + len(step.beat or b"")
        if total > most_bytes and place:
            return steps[:place]
    return steps


async def told_by(connection: AsyncConnection, run_key: int, numbers: set[int]) -> dict[int, Told]:
    """What events hold, by their numbers."""
    if not numbers:
        return {}
    columns = (EVENTS.c.number, EVENTS.c.payload_kind, EVENTS.c.payload, EVENTS.c.attributes)
    query = select(*columns).where(EVENTS.c.run_key == run_key, EVENTS.c.number.in_(numbers))
    told: dict[int, Told] = {}
    for number, kind, body, packed in await connection.execute(query):
        attributes = unpack_attributes(packed)
        told[number] = (payload_of(kind, body, attributes), attributes.failure)
    return told


def _whole(step: SeenStep, told: dict[int, Told]) -> WholeStep:
    given, came = step.events
    result, failure = told.get(came, (None, None))
    return WholeStep(
        step,
        told[given][0] if given in told else None,
        result if step.state in {StepState.COMPLETED, StepState.SKIPPED} else None,
        failure,
        unpack_payload(step.beat) if step.beat is not None else None,
    )
