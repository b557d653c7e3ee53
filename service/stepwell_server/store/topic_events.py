"""Publishing events of topics, and reading what is kept of them and who waits."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec
from sqlalchemy import func, insert, literal, select, tuple_

from stepwell_server.model.events import pack_attributes, payload_of, unpack_attributes
from stepwell_server.model.payloads import Payload
from stepwell_server.store import namespaces, requests
from stepwell_server.store.schema import RUNS, TOPIC_EVENTS, TOPIC_WAITS
from stepwell_server.store.turns import take_turn

if TYPE_CHECKING:
    from sqlalchemy import Select

    from stepwell_server.model.requests import Asked
    from stepwell_server.store.database import Database


class NewEvent(NamedTuple):
    """An event to publish."""

    namespace_id: int
    namespace: str
    topic: str
    payload: Payload
    retain_seconds: float


class PublishedEvent(msgspec.Struct, frozen=True, gc=False):
    """The answer to a publication."""

    number: int
    publish_time: datetime


class SeenEvent(NamedTuple):
    """An event as it is kept."""

    number: int
    publish_time: datetime
    retain_time: datetime | None
    is_delivered: bool
    payload: Payload


class SeenWait(NamedTuple):
    """A step that waits, with the names of its run."""

    run_key: int
    ordinal: int
    run_id: UUID
    workflow_id: str
    type: str


class Turns:
    """Who publishes to a topic waits here for those before it: in the database each would keep a connection waiting."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()

    def of(self, namespace_id: int, topic: str) -> asyncio.Lock:
        """The lock of a topic, which goes when nobody has it or waits for it."""
        lock = self._locks.get((namespace_id, topic))
        if lock is None:
            lock = self._locks[namespace_id, topic] = asyncio.Lock()
        return lock


async def publish(
    database: Database, new: NewEvent, now: datetime, idle_seconds: float, asked: Asked | None
) -> PublishedEvent:
    """Publishes an event. Refuses with NAMESPACE_NOT_FOUND, REQUEST_ID_REUSED."""
    async with database.pool.begin() as connection:
        await namespaces.hold(connection, new.namespace_id, new.namespace)
        # Whoever freezes here must not keep others from publishing.
        limit, local = f"{int(idle_seconds * 1000)}ms", literal(value=True)
        await connection.execute(select(func.set_config("idle_in_transaction_session_timeout", limit, local)))
        known = await requests.recall(connection, asked)
        if isinstance(known, PublishedEvent):
            return known
        await connection.execute(turn_of(new.namespace_id, new.topic))
        row = {
            "namespace_id": new.namespace_id,
            "topic": new.topic,
            "number": func.nextval("topic_numbers"),
            "publish_time": now,
            "retain_time": now + timedelta(seconds=new.retain_seconds) if new.retain_seconds else None,
            "is_delivered": False,
            "payload_kind": new.payload.kind,
            "payload": new.payload.body if new.payload.kind else None,
            "attributes": pack_attributes(new.payload),
        }
        made = await connection.execute(insert(TOPIC_EVENTS).values(row).returning(TOPIC_EVENTS.c.number))
        published = PublishedEvent(made.scalar_one(), now)
        await requests.note(connection, asked, published, now)
    return published


async def list_events(  # noqa: PLR0917 - what is asked of one list
    database: Database, namespace_id: int, topic: str, after: int, most: int, most_bytes: int
) -> tuple[list[SeenEvent], bool]:
    """Events of a topic after a number, fewer where they are large, and whether there are more.

    Walks topic_events_pkey.
    """
    table = TOPIC_EVENTS.c
    size = func.coalesce(func.octet_length(table.payload), 0) + func.coalesce(func.octet_length(table.attributes), 0)
    listed = (
        select(table.number, func.sum(size).over(order_by=table.number).label("total"), size.label("size"))
        .where(table.namespace_id == namespace_id, table.topic == topic, table.number > after)
        .order_by(table.number)
        .limit(most + 1)
    ).subquery()
    shown = (
        "number",
        "publish_time",
        "retain_time",
        "is_delivered",
        "payload_kind",
        "payload",
        "attributes",
    )
    query = (
        select(*(table[name] for name in shown), func.count().over().label("count"))
        .join(listed, listed.c.number == table.number)
        .where(table.namespace_id == namespace_id, table.topic == topic)
        .where((listed.c.total <= most_bytes) | (listed.c.total == listed.c.size))
        .order_by(table.number)
    )
    async with database.pool.begin() as connection:
        asked = (await connection.execute(select(func.count()).select_from(listed))).scalar_one()
        rows = (await connection.execute(query)).all()
    seen = [SeenEvent(*row[:4], payload_of(row[4], row[5], unpack_attributes(row[6]))) for row in rows][:most]
    return seen, len(seen) < asked


async def list_waits(
    database: Database, namespace_id: int, topic: str, after: tuple[int, int], most: int
) -> list[SeenWait]:
    """Steps that wait on a topic, by run, after a place. Walks topic_waits_topic_idx, then runs_pkey."""
    table = TOPIC_WAITS.c
    query = (
        select(table.run_key, table.ordinal, RUNS.c.run_id, RUNS.c.workflow_id, RUNS.c.type)
        .join(RUNS, RUNS.c.run_key == table.run_key)
        .where(table.namespace_id == namespace_id, table.topic == topic)
        .where(tuple_(table.run_key, table.ordinal) > tuple_(*after))
        .order_by(table.run_key, table.ordinal)
        .limit(most)
    )
    async with database.pool.begin() as connection:
        return [SeenWait(*row) for row in await connection.execute(query)]


def turn_of(namespace_id: int, topic: str) -> Select[tuple[object]]:
    """A query that returns when nobody else publishes to the topic."""
    return take_turn("topic", namespace_id, topic)
