"""Partitions of the tables that are only inserted into, each for a range of keys, of runs or of jobs.

A range is called by its number, from 1. Rows of a range that has no partition of its own go to the default one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from stepwell_server.store.faults import translated
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from stepwell_server.store.connection import Connection

PARTITIONS = load("partitions")
JOB_TABLES = ("closed_jobs", "job_inputs")
RUN_TABLES = ("closed_runs", "closed_steps", "events")
TABLES = (*RUN_TABLES, *JOB_TABLES)
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


async def drop_partition_if_empty(connection: Connection, table: str, number: int) -> bool:
    """Drops a range's partition if there is nothing in it, while others work.

    A row that comes late goes to the default one. Raises Conflict if somebody was in the way.
    """
    name = f"{table}_p{number}"
    try:
        if await connection.raw.fetchval(f"SELECT EXISTS (SELECT FROM {name})"):  # noqa: S608 - a name of ours
            return False
        async with connection.raw.transaction():
            await connection.raw.execute(f"SET LOCAL lock_timeout = {_LOCK_MILLISECONDS}")
            await connection.raw.execute(f"LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE")
            if await connection.raw.fetchval(f"SELECT EXISTS (SELECT FROM {name})"):  # noqa: S608 - likewise
                return False
            await connection.raw.execute(f"DROP TABLE {name}")
    except Exception as error:
        raise translated(error) from error
    return True
