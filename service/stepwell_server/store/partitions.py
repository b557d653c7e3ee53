"""Partitions of the tables that are only inserted into, each for a range of run keys.

A range is called by its number, from 1. Rows of a range that has no partition of its own go to the default one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from stepwell_server.store.database import translated
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from stepwell_server.store.database import Connection

PARTITIONS = load("partitions")
TABLES = ("closed_runs", "closed_steps", "events")
RUN_KEYS = 10_000_000
_NUMBER = re.compile(r"_p(\d+)$")
# Attaching locks the default partition, and whoever comes meanwhile waits behind us.
_LOCK_MILLISECONDS = 250


async def last_run_key(connection: Connection) -> int:
    """About the greatest run key given."""
    key: int = await connection.fetchval(PARTITIONS["last_run_key"])
    return key


async def read_partitions(connection: Connection, table: str) -> set[int]:
    """The numbers of the ranges that have a partition."""
    names = [row[0] for row in await connection.fetch(PARTITIONS["read_partitions"], table)]
    return {int(found[1]) for name in names if (found := _NUMBER.search(name))}


async def add_partition(connection: Connection, table: str, number: int) -> None:
    """Gives a range a partition of its own, while others work.

    Raises Conflict if somebody was in the way, Rejected if rows of the range lie in the default partition already.
    """
    name, first, end = f"{table}_p{number}", (number - 1) * RUN_KEYS, number * RUN_KEYS
    # CREATE TABLE ... PARTITION OF would lock the whole table against everybody.
    try:
        async with connection.raw.transaction():
            await connection.raw.execute(f"SET LOCAL lock_timeout = {_LOCK_MILLISECONDS}")
            await connection.raw.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)")
            await connection.raw.execute(
                f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({end})"
            )
    except Exception as error:
        raise translated(error) from error
