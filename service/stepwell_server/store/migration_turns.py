"""Applies one migration beside a service that works: nobody waits for it longer than one turn.

Whoever wants a table's lock queues in front of everybody who comes after, so a lock is asked for in turns: for a few
seconds, then a pause in which those behind go on, then again.

| a file                        | is applied                                                                        |
|-------------------------------|-----------------------------------------------------------------------------------|
| in a transaction (usual)      | whole or not at all; each statement bounded in time, since it holds locks         |
| `no-transaction`              | statement by statement, each unbounded in time and in turns for its locks         |
| there: an index, CONCURRENTLY | waits in the database: what it holds meanwhile stops nobody                       |
| there: one of a table that is | partition by partition, CONCURRENTLY each, then put under the table's own index   |
| partitioned                   |                                                                                   |
| there: a DO with a COMMIT     | in slices, each a transaction of its own                                          |

A file without a transaction may be interrupted after any statement, and is then applied from its beginning: each of its
statements does nothing where it is done already. What an interrupted CREATE INDEX CONCURRENTLY leaves is an invalid
index, which is dropped first.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from stepwell_server.store.migration_files import MigrationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stepwell_server.store.migration_files import Migration

_log = logging.getLogger(__name__)
_INDEX = re.compile(
    r"CREATE\s+(?P<unique>UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<name>\w+)"
    r"\s+ON\s+(?P<table>\w+)(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_CONCURRENTLY = re.compile(r"\bINDEX\s+CONCURRENTLY\b", re.IGNORECASE)
_OLDEST = """
    SELECT pid, application_name, round(extract(EPOCH FROM clock_timestamp() - xact_start)) AS seconds
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
    ORDER BY xact_start LIMIT 3
"""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a migration waits, and lets others wait."""

    lock_seconds: float = 3.0
    """For locks, in one turn: for so long others may stand behind it."""
    turns: int = 20
    """Tries to get a lock."""
    pause_seconds: float = 1.0
    """Between two of them."""
    statement_seconds: float = 20.0
    """Longest statement of a transaction, which holds all its locks to its end."""


class Index(NamedTuple):
    """An index that is to be made while others work."""

    unique: str
    name: str
    table: str
    rest: str


async def apply(connection: asyncpg.Connection, migration: Migration, patience: Patience) -> None:
    """Applies a migration and records it. Raises MigrationError, with what to do, if its locks are not to be had."""
    _log.info("applying %s", migration.title)
    if migration.in_transaction:
        await _in_turns(connection, migration, patience, lambda: _whole(connection, migration, patience))
        return
    await connection.execute("SET statement_timeout = 0")
    if migration.min_server:
        # Servers that can't bear what is being made must leave before it is.
        await _raise_min_server(connection, migration)
    for statement in migration.statements():
        await _one(connection, migration, statement, patience)
    await _in_turns(connection, migration, patience, lambda: _recorded(connection, migration, patience))


async def _whole(connection: asyncpg.Connection, migration: Migration, patience: Patience) -> None:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = {_milliseconds(patience.lock_seconds)}")
        await connection.execute(f"SET LOCAL statement_timeout = {_milliseconds(patience.statement_seconds)}")
        await connection.execute(migration.sql)
        await _record(connection, migration)


async def _recorded(connection: asyncpg.Connection, migration: Migration, patience: Patience) -> None:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = {_milliseconds(patience.lock_seconds)}")
        await _record(connection, migration)


async def _one(connection: asyncpg.Connection, migration: Migration, statement: str, patience: Patience) -> None:
    if not _CONCURRENTLY.search(statement):
        await _alone(connection, migration, statement, patience)
        return
    index = _index(statement)
    if index is not None and await _is_partitioned(connection, index.table):
        await _index_partitions(connection, migration, index, patience)
        return
    if index is not None:
        await _drop_if_broken(connection, index.name)
    await _unhurried(connection, statement)


async def _alone(connection: asyncpg.Connection, migration: Migration, statement: str, patience: Patience) -> None:
    """A statement that asks for its locks in turns."""
    await connection.execute(f"SET lock_timeout = {_milliseconds(patience.lock_seconds)}")
    await _in_turns(connection, migration, patience, lambda: connection.execute(statement))


async def _unhurried(connection: asyncpg.Connection, statement: str) -> None:
    """A statement whose locks stop nobody: it may wait for the transactions that are under way."""
    await connection.execute("SET lock_timeout = 0")
    await connection.execute(statement)


def _index(statement: str) -> Index | None:
    found = _INDEX.search(statement)
    return Index(found["unique"] or "", found["name"], found["table"], found["rest"]) if found else None


async def _index_partitions(
    connection: asyncpg.Connection, migration: Migration, index: Index, patience: Patience
) -> None:
    """An index of a partitioned table, which Postgres makes CONCURRENTLY only partition by partition.

    The table's own comes first, invalid: a partition that is attached from then on brings its own. It becomes valid
    with the last one.
    """
    make = f"CREATE {index.unique}INDEX IF NOT EXISTS {index.name} ON ONLY {index.table}{index.rest}"
    await _alone(connection, migration, make, patience)
    while (partition := await _without(connection, index)) is not None:
        own = index.name + partition.removeprefix(index.table)
        _log.info("%s: index %s of %s", migration.title, index.name, partition)
        try:
            await _drop_if_broken(connection, own)
            await _unhurried(
                connection,
                f"CREATE {index.unique}INDEX CONCURRENTLY IF NOT EXISTS {own} ON {partition}{index.rest}",
            )
        except asyncpg.UndefinedTableError:
            continue  # retention dropped it meanwhile
        await _alone(connection, migration, f"ALTER INDEX {index.name} ATTACH PARTITION {own}", patience)


async def _without(connection: asyncpg.Connection, index: Index) -> str | None:
    """A partition whose index is not under the table's."""
    name: str | None = await connection.fetchval(
        """
        SELECT c.relname
        FROM pg_inherits AS p
        JOIN pg_class AS c ON c.oid = p.inhrelid
        WHERE p.inhparent = to_regclass($1) AND NOT EXISTS (
            SELECT FROM pg_inherits AS u
            JOIN pg_index AS i ON i.indexrelid = u.inhrelid
            WHERE u.inhparent = to_regclass($2) AND i.indrelid = p.inhrelid
        )
        ORDER BY c.relname LIMIT 1
        """,
        index.table,
        index.name,
    )
    return name


async def _is_partitioned(connection: asyncpg.Connection, table: str) -> bool:
    partitioned = "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass($1) AND relkind = 'p')"
    return bool(await connection.fetchval(partitioned, table))


async def _drop_if_broken(connection: asyncpg.Connection, name: str) -> None:
    """Clears away what an interrupted attempt left: an invalid index, which IF NOT EXISTS takes for the real one."""
    broken = await connection.fetchval("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", name)
    if broken:
        await _unhurried(connection, f"DROP INDEX CONCURRENTLY {name}")


async def _in_turns(
    connection: asyncpg.Connection, migration: Migration, patience: Patience, work: Callable[[], Awaitable[object]]
) -> None:
    for turn in range(1, patience.turns + 1):
        try:
            await work()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            await _give_way(connection, migration, patience, turn, error)
        except asyncpg.QueryCanceledError as error:
            if "statement timeout" not in str(error):
                raise
            raise MigrationError(
                f"migration {migration.title} would have held its locks for longer than "
                f"{patience.statement_seconds:g} s and was undone: repeat it while the database has less to do, or "
                f"with --statement-seconds"
            ) from error
        else:
            return


async def _give_way(
    connection: asyncpg.Connection, migration: Migration, patience: Patience, turn: int, error: Exception
) -> None:
    """Lets those behind go on; says who has been at it for longest."""
    oldest = [
        f"pid {row['pid']} ({row['application_name'] or 'unnamed'}, {row['seconds']} s)"
        for row in await connection.fetch(_OLDEST)
    ]
    holders = f"; the oldest transactions: {', '.join(oldest)}" if oldest else ""
    if turn == patience.turns:
        raise MigrationError(
            f"migration {migration.title} did not get its locks in {turn} turns of {patience.lock_seconds:g} s: "
            f"end the long transactions on this database and repeat{holders}"
        ) from error
    _log.warning("%s waits for its locks: turn %d of %d%s", migration.title, turn, patience.turns, holders)
    await asyncio.sleep(patience.pause_seconds)


async def _raise_min_server(connection: asyncpg.Connection, migration: Migration) -> None:
    await connection.execute("UPDATE stepwell_version SET min_server = greatest(min_server, $1)", migration.min_server)


async def _record(connection: asyncpg.Connection, migration: Migration) -> None:
    await connection.execute(
        "INSERT INTO stepwell_schema (number, name, checksum) VALUES ($1, $2, $3)",
        migration.number,
        migration.name,
        migration.checksum,
    )
    await connection.execute("UPDATE stepwell_version SET version = $1", migration.number)
    await _raise_min_server(connection, migration)


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
