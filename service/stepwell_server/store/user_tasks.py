"""Reading tasks for people: one by its id, the inbox of somebody, or a list, with what their runs' histories hold."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    Text,
    cast,
    column,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
    union,
)

from stepwell_server.model.events import payload_of, unpack_attributes
from stepwell_server.model.filters import Filter
from stepwell_server.model.orders import Order, SortKey
from stepwell_server.model.payloads import NULL, Payload
from stepwell_server.model.user_tasks import ACTIVE, NEVER_DUE, TaskStatus, UserTask
from stepwell_server.store.filters import after, named, sorting, where
from stepwell_server.store.schema import EVENTS, USER_TASKS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Subquery
    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.store.database import Database

_TABLE = USER_TASKS.c
# Written out, so that the database knows them from the inboxes' indexes whatever else is asked.
_PENDING: ColumnElement[int] = literal_column(str(int(TaskStatus.PENDING)))
_EMPTY: ColumnElement[str] = literal_column("''")
_TIE = SortKey("task_id", descending=True)
_NEWEST = (_TABLE.create_time, _TABLE.task_id)
_INBOX = (-_TABLE.priority, _TABLE.due_time, _TABLE.create_time, _TABLE.task_id)


class WholeTask(NamedTuple):
    """A task with its input and its output."""

    task: UserTask
    input: Payload
    output: Payload


class TaskPage(NamedTuple):
    """Tasks, and whether there are more."""

    tasks: list[WholeTask]
    has_more: bool


class TaskFilter(msgspec.Struct, frozen=True, gc=False):
    """Which tasks to list; what is None or empty does not filter."""

    namespace_id: int
    statuses: tuple[int, ...] = ()
    run_key: int | None = None
    step_name: str = ""
    assigned_role_id: str = ""
    assigned_user_id: str = ""
    assigned_group_id: str = ""
    query: str = ""
    where: Filter | None = None


class Inbox(msgspec.Struct, frozen=True, gc=False):
    """Whose pending tasks to list."""

    namespace_id: int
    role_ids: tuple[str, ...]
    user_id: str
    group_ids: tuple[str, ...]


class InboxPlace(NamedTuple):
    """Where an inbox stands."""

    priority: Annotated[int, msgspec.Meta(ge=1, le=4)]
    due_time: datetime
    create_time: datetime
    task_id: UUID


class NewestPlace(NamedTuple):
    """Where a list stands, the newest first."""

    create_time: datetime
    task_id: UUID


async def find(database: Database, namespace_id: int, task_id: UUID) -> UserTask | None:
    """The task of that id, or None. Walks user_tasks_task_id_key."""
    query = select(USER_TASKS).where(_TABLE.task_id == task_id, _TABLE.namespace_id == namespace_id)
    async with database.pool.begin() as connection:
        found = (await connection.execute(query)).one_or_none()
    return UserTask(*found) if found is not None else None


async def active(database: Database, run_key: int, step_name: str) -> UserTask | None:
    """The latest open task of that step, or None. Walks the run's part of user_tasks_pkey."""
    query = (
        select(USER_TASKS)
        .where(_TABLE.run_key == run_key, _TABLE.step_name == step_name, _TABLE.status.in_(sorted(ACTIVE)))
        .order_by(_TABLE.ordinal.desc())
        .limit(1)
    )
    async with database.pool.begin() as connection:
        found = (await connection.execute(query)).one_or_none()
    return UserTask(*found) if found is not None else None


async def whole(database: Database, task: UserTask) -> WholeTask:
    """A task with its payloads, which never change."""
    async with database.pool.begin() as connection:
        return (await _whole(connection, [task]))[0]


async def page(  # noqa: PLR0917 - what is asked of one list
    database: Database, wanted: TaskFilter, order: Order, place: tuple[Any, ...] | None, most: int, most_bytes: int
) -> TaskPage:
    """Tasks that fit, after a place in that order, or the newest first; fewer where they are large."""
    async with database.pool.begin() as connection:
        found = [UserTask(*row) for row in await connection.execute(page_query(wanted, order, place, most + 1))]
        return await _picked(connection, found, most, most_bytes)


async def inbox(database: Database, wanted: Inbox, place: InboxPlace | None, most: int, most_bytes: int) -> TaskPage:
    """What is pending for somebody, after a place; fewer where they are large."""
    async with database.pool.begin() as connection:
        found = [UserTask(*row) for row in await connection.execute(inbox_query(wanted, place, most + 1))]
        return await _picked(connection, found, most, most_bytes)


def place_of(task: UserTask, order: Order) -> tuple[Any, ...]:
    """Where a task stands in that order."""
    if not order:
        return NewestPlace(task.create_time, task.task_id)
    return (*(getattr(task, key.field) for key in order), task.task_id)


def inbox_place_of(task: UserTask) -> InboxPlace:
    """Where a task stands in an inbox."""
    return InboxPlace(task.priority, task.due_time, task.create_time, task.task_id)


# --- queries ----------------------------------------------------------------------------------------------------------


def page_query(wanted: TaskFilter, order: Order, place: tuple[Any, ...] | None, most: int) -> Select[Any]:
    """What `page` asks: newest first, or of one run or one status, it walks an index; else it sorts all that fits."""
    columns = named(_TABLE)
    query = select(USER_TASKS).where(_TABLE.namespace_id == wanted.namespace_id)
    if wanted.statuses:
        query = query.where(_TABLE.status.in_(wanted.statuses))
    if wanted.run_key is not None:
        query = query.where(_TABLE.run_key == wanted.run_key)
    for name in ("step_name", "assigned_role_id", "assigned_user_id", "assigned_group_id"):
        if getattr(wanted, name):
            query = query.where(_TABLE[name] == getattr(wanted, name))
    if wanted.query:
        texts = (_TABLE.title, _TABLE.description, _TABLE.step_name)
        query = query.where(or_(*(text.icontains(wanted.query, autoescape=True) for text in texts)))
    if wanted.where is not None:
        due_time = func.nullif(_TABLE.due_time, literal(NEVER_DUE, _TABLE.due_time.type), type_=_TABLE.due_time.type)
        query = query.where(where(wanted.where, {**columns, "due_time": due_time}))
    if order:
        if place is not None:
            query = query.where(after(order, columns, _TIE, place))
        return query.order_by(*sorting(order, columns, _TIE)).limit(most)
    if place is not None:
        query = query.where(tuple_(*_NEWEST) < tuple_(*_bound(_NEWEST, place)))
    return query.order_by(*(each.desc() for each in _NEWEST)).limit(most)


def inbox_query(wanted: Inbox, place: InboxPlace | None, most: int) -> Select[Any]:
    """What `inbox` asks: of each role, group and user the first in the order of its index, and the first of these."""
    parts = [
        _of(assigned, ids, wanted.namespace_id, place, most)
        for assigned, ids in (
            (_TABLE.assigned_role_id, wanted.role_ids),
            (_TABLE.assigned_user_id, (wanted.user_id,) if wanted.user_id else ()),
            (_TABLE.assigned_group_id, wanted.group_ids),
        )
        if ids
    ]
    merged = union(*(select(part) for part in parts)).subquery()
    first = select(merged).order_by(*list(merged.c)[:4]).limit(most).subquery()
    at = (_TABLE.run_key == first.c.run_key) & (_TABLE.ordinal == first.c.ordinal)
    return select(USER_TASKS).join(first, at).order_by(*list(first.c)[:4])


def _of(
    assigned: ColumnElement[str], ids: Sequence[str], namespace_id: int, place: InboxPlace | None, most: int
) -> Subquery:
    """The first of each of these inboxes, as many of each as a page may need."""
    asked = (
        func.unnest(cast(literal(list(ids), ARRAY(Text)), ARRAY(Text)))
        .table_valued(column("id", Text))
        .render_derived()
    )
    query = (
        select(_INBOX[0].label("rank"), *_INBOX[1:], _TABLE.run_key, _TABLE.ordinal)
        .where(_TABLE.namespace_id == namespace_id, assigned == asked.c.id, assigned != _EMPTY)
        .where(_TABLE.status == _PENDING)
        .order_by(*_INBOX)
        .limit(most)
    )
    if place is not None:
        values = (-place.priority, *place[1:])
        query = query.where(tuple_(*_INBOX) > tuple_(*_bound(_INBOX, values)))
    found = query.lateral()
    return select(found).select_from(asked.join(found, literal_column("true"))).subquery()


def _bound(columns: Sequence[ColumnElement[Any]], values: Sequence[Any]) -> list[ColumnElement[Any]]:
    return [literal(value, each.type) for each, value in zip(columns, values, strict=True)]


# --- payloads ---------------------------------------------------------------------------------------------------------


async def _picked(connection: AsyncConnection, found: list[UserTask], most: int, most_bytes: int) -> TaskPage:
    """The first of the tasks, as many as fit a page, and at least one."""
    sizes = await _sizes(connection, found[:most])
    shown: list[UserTask] = []
    total = 0
    for task in found[:most]:
        total += sum(sizes.get(key, 0) for key in _events_of(task)) + len((task.title + task.description).encode())
        if shown and total > most_bytes:
            break
        shown.append(task)
    return TaskPage(await _whole(connection, shown), len(shown) < len(found))


def _events_of(task: UserTask) -> list[tuple[int, int]]:
    return [(task.run_key, number) for number in (task.input_event, task.output_event) if number]


def _single_events(keys: Collection[tuple[int, int]], *columns: ColumnElement[Any]) -> Select[Any]:
    """Single events of runs. Walks one partition's primary key each."""
    ordered = sorted(keys)
    run_keys = cast(literal([key for key, _ in ordered], ARRAY(BigInteger)), ARRAY(BigInteger))
    numbers = cast(literal([number for _, number in ordered], ARRAY(Integer)), ARRAY(Integer))
    asked = func.unnest(run_keys, numbers).table_valued(column("run_key", BigInteger), column("number", Integer))
    asked = asked.render_derived()
    event = (
        select(*columns)
        .where(EVENTS.c.run_key == asked.c.run_key, EVENTS.c.number == asked.c.number)
        .offset(0)
        .lateral()
    )
    return select(asked.c.run_key, asked.c.number, *event.c).select_from(asked.join(event, literal_column("true")))


async def _sizes(connection: AsyncConnection, tasks: Sequence[UserTask]) -> dict[tuple[int, int], int]:
    keys = {key for task in tasks for key in _events_of(task)}
    if not keys:
        return {}
    parts = (func.coalesce(func.octet_length(each), 0) for each in (EVENTS.c.payload, EVENTS.c.attributes))
    query = _single_events(keys, sum(parts, literal_column("0")).label("size"))
    return {(row[0], row[1]): row[2] for row in await connection.execute(query)}


async def _whole(connection: AsyncConnection, tasks: Sequence[UserTask]) -> list[WholeTask]:
    keys = {key for task in tasks for key in _events_of(task)}
    told: dict[tuple[int, int], Payload] = {}
    if keys:
        query = _single_events(keys, EVENTS.c.payload_kind, EVENTS.c.payload, EVENTS.c.attributes)
        for run_key, number, kind, body, packed in await connection.execute(query):
            told[run_key, number] = payload_of(kind, body, unpack_attributes(packed))
    return [
        WholeTask(
            task,
            told.get((task.run_key, task.input_event), NULL),
            told.get((task.run_key, task.output_event), NULL),
        )
        for task in tasks
    ]
