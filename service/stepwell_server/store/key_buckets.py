"""The buckets of keys whose rate is limited: found with the keys of which something waits, written, and pruned."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import select

from stepwell_server.store.columns import pairs
from stepwell_server.store.fair_tasks import from_key, names
from stepwell_server.store.schema import KEY_BUCKETS
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database
    from stepwell_server.store.fair_tasks import Found, Queue

STATEMENTS = load("key_buckets")


class Bounds(NamedTuple):
    """Which buckets have a token: those spent until then at the latest.

    Of one that fills in more than so many seconds another limit is over, and it is spent until then at the latest.
    """

    open_until: datetime
    fill_seconds: float
    settled_until: datetime


class Waits(NamedTuple):
    """A key of which something waits, until when its bucket is spent, and how many up to it have a token."""

    key: str
    spent_until: datetime | None
    open: int


class Place(NamedTuple):
    """Where a walk over buckets stands."""

    namespace_id: int = -1
    task_queue: str = ""
    key: str = ""


async def find_keys(  # noqa: PLR0917 - the statement's parameters
    connection: Connection,
    queue: Queue,
    types: Sequence[str],
    builds: Sequence[str],
    key: str,
    most: int,
    looked: int,
    own: Collection[Found],
    bounds: Bounds,
    *,
    inclusive: bool,
) -> list[Waits]:
    """The keys of which something waits besides `own`, in their order: those after a key, or from it on.

    They end behind `most` that have a token, or behind so many that were `looked` at.
    """
    after = from_key(key, inclusive=inclusive)
    wanted = (*queue, types, ["", *builds], *after, most, looked, *names(own), *bounds)
    return [Waits(*row) for row in await connection.fetch(STATEMENTS["find_limited_keys"], *wanted)]


async def write(connection: Connection, spent: Sequence[tuple[int, str, str, datetime, float]]) -> None:
    """Notes until when the buckets of keys are spent, and in how many seconds an empty one fills."""
    await connection.write(STATEMENTS["write_key_buckets"], pairs(sorted(spent)))


async def read(
    database: Database, namespace_id: int, task_queues: Collection[str], key: str
) -> dict[str, tuple[datetime, float]]:
    """Until when a key's buckets are spent, by queue, and how long they took to fill; a full one may be absent."""
    if not task_queues:
        return {}
    table = KEY_BUCKETS.c
    mine = (table.namespace_id == namespace_id, table.task_queue.in_(task_queues), table.fairness_key == key)
    async with database.pool.begin() as connection:
        found = await connection.execute(select(table.task_queue, table.spent_until, table.fill_seconds).where(*mine))
        return {row[0]: (row[1], row[2]) for row in found}


async def prune(connection: Connection, after: Place, now: datetime, most: int) -> tuple[int, Place | None]:
    """Forgets those of a slice that nobody needs; answers how many, and where the next slice begins."""
    ends = await connection.fetch(STATEMENTS["next_key_buckets"], *after, most)
    if not ends:
        return 0, None
    end = Place(*ends[0])
    return len(await connection.fetch(STATEMENTS["prune_key_buckets"], *after, *end, now)), end
