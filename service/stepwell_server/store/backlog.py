"""What waits in all queues, for the gauges. Costs little however much waits."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from stepwell_server.store.connection import Connection

BACKLOG = load("backlog")
MOST_SORTS = 500
MOST_COUNTED = 10_000
"""Where counting the tasks of one type, build and priority ends."""


class Waiting(NamedTuple):
    """Tasks of one queue, kind, type and build: how many wait, and since when the oldest."""

    namespace: str
    task_queue: str
    kind: int
    waiting: int
    oldest: datetime
    namespace_id: int
    type: str
    build_id: str


async def read_backlog(connection: Connection, now: datetime) -> list[Waiting]:
    """What waits and is to be had; of very many sorts, some are left out."""
    rows = await connection.fetch(BACKLOG["read_backlog"], now, MOST_SORTS, MOST_COUNTED)
    return [Waiting(*row) for row in rows]


async def count_dead_letters(connection: Connection) -> int:
    """How many dead letters there are, counted up to a bound."""
    count: int = await connection.fetchval(BACKLOG["count_dead_letters"], MOST_COUNTED)
    return count
