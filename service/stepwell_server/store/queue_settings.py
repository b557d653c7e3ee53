"""What is set for task queues: written by people, read by replicas as a whole, and by the batches that give tasks."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import case, func, select, tuple_
from sqlalchemy import update as update_rows
from sqlalchemy.dialects.postgresql import insert

from stepwell_server import errors
from stepwell_server.model.queue_settings import QueueSettings
from stepwell_server.store import namespaces, requests
from stepwell_server.store.columns import pairs
from stepwell_server.store.faults import in_our_words
from stepwell_server.store.schema import QUEUE_SETTINGS, TASKS
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from stepwell_server.model.requests import Asked
    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database

STATEMENTS = load("queue_settings")
_SLICE = 1_000
MOST = 10_000
"""So many queues have settings at most, in all namespaces: each replica knows all of them."""


async def update(  # noqa: PLR0917 - one change
    database: Database,
    namespace_id: int,
    namespace: str,
    task_queue: str,
    changes: Mapping[str, object],
    now: datetime,
    asked: Asked | None = None,
) -> QueueSettings:
    """Sets columns of a queue's row, which is made if there is none. The last write wins.

    Refuses with INVALID_FIELD, NAMESPACE_NOT_FOUND, LIMIT_EXCEEDED, REQUEST_ID_REUSED.
    """
    table = QUEUE_SETTINGS
    made = insert(table).values(namespace_id=namespace_id, task_queue=task_queue, version=1, update_time=now, **changes)
    statement = made.on_conflict_do_update(
        index_elements=["namespace_id", "task_queue"],
        set_={"version": table.c.version + 1, "update_time": now, **changes, **_spent(changes, now)},
    ).returning(*table.c)
    async with database.pool.begin() as connection:
        known = await requests.recall(connection, asked)
        if isinstance(known, QueueSettings):
            return known
        await namespaces.hold(connection, namespace_id, namespace)
        row = QueueSettings(*(await connection.execute(statement)).one())
        _check(row, changes)
        if row.version == 1 and (await connection.scalar(select(func.count()).select_from(table)) or 0) > MOST:
            raise errors.LimitExceeded(limit="queue_settings", value=MOST + 1, maximum=MOST)
        await requests.note(connection, asked, row, now)
        return row


def _spent(changes: Mapping[str, object], now: datetime) -> dict[str, object]:
    """What a change of the limit does to the bucket: what was taken under a slower one before is no debt."""
    limit = QueueSettings(0, "", 0, now, **changes).rate_limit  # type: ignore[arg-type] # names of its columns
    if limit is None:
        return {}
    spent_until, full = QUEUE_SETTINGS.c.spent_until, now + timedelta(seconds=limit.fill_seconds)
    return {"spent_until": case((spent_until > full, full), else_=spent_until)}


def _check(row: QueueSettings, changes: Mapping[str, object]) -> None:
    """Refuses what cannot hold together. What the row has of before counts, so nothing is known sooner."""
    if row.key_rate_burst is None or row.fairness_weights is not None:
        return
    if "key_rate_burst" in changes:
        problem = "needs keys that take turns: set `fairness` too, or before"
        raise errors.InvalidField(field="key_rate_limit", problem=problem)
    problem = "is what `key_rate_limit` needs: take that away too, or before"
    raise errors.InvalidField(field="fairness", problem=problem)


async def mark_without_key(database: Database, namespace_id: int, task_queue: str) -> None:
    """Gives what waits in a queue without a key the empty one, a slice at a time: keys take turns there from now on."""
    mine = (TASKS.c.namespace_id == namespace_id, TASKS.c.task_queue == task_queue, TASKS.c.fairness_key.is_(None))
    keys = (TASKS.c.run_key, TASKS.c.ordinal)
    some = select(*keys).where(*mine).limit(_SLICE).with_for_update(skip_locked=True)
    marked = update_rows(TASKS).where(tuple_(*keys).in_(some)).values(fairness_key="")
    with in_our_words():
        while True:
            async with database.pool.begin() as connection:
                if (await connection.execute(marked)).rowcount < _SLICE:
                    return


async def read(database: Database, namespace_id: int, task_queues: Collection[str]) -> dict[str, QueueSettings]:
    """The settings of queues, by their names; those that have none are absent."""
    if not task_queues:
        return {}
    mine = (QUEUE_SETTINGS.c.namespace_id == namespace_id, QUEUE_SETTINGS.c.task_queue.in_(task_queues))
    async with database.pool.begin() as connection:
        found = [QueueSettings(*row) for row in await connection.execute(select(QUEUE_SETTINGS).where(*mine))]
    return {each.task_queue: each for each in found}


async def read_all(database: Database) -> list[QueueSettings]:
    """The settings of all queues that have some. Raises Lost."""
    with in_our_words():
        async with database.pool.begin() as connection:
            return [QueueSettings(*row) for row in await connection.execute(select(QUEUE_SETTINGS).limit(MOST))]


async def lock(connection: Connection, queues: Sequence[tuple[int, str]]) -> list[QueueSettings]:
    """The settings of queues, locked until the batch has ended; those that another batch has are left out."""
    return [QueueSettings(*row) for row in await connection.fetch(STATEMENTS["lock_queue_settings"], *pairs(queues))]


async def spend(connection: Connection, spent: Sequence[tuple[int, str, datetime]]) -> None:
    """Notes until when the buckets of locked queues are spent."""
    await connection.write(STATEMENTS["spend_tokens"], pairs(spent))
