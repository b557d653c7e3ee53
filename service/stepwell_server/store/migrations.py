"""Brings a database to this server's schema: forward-only numbered SQL files, each applied once.

A server is known to the database by the number of its newest migration. Beside that number (`version`) the database
keeps `min_server`, the oldest server that may still run on it, raised by a migration that older ones cannot bear.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import asyncpg

from stepwell_server.store.directness import NOT_DIRECT, Misaddressed, refuses_settings, require_direct
from stepwell_server.store.faults import Lost
from stepwell_server.store.lineage import Lineage
from stepwell_server.store.migration_files import Migration, MigrationError, refuse_changed, refuse_gaps, shipped
from stepwell_server.store.migration_rights import check_rights, in_words
from stepwell_server.store.migration_turns import Patience, apply
from stepwell_server.store.reaching import Reach

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

__all__ = ["Applied", "Migration", "MigrationError", "Patience", "Standing", "Window", "check", "migrate", "shipped"]

DEFAULT_SCHEMA = "stepwell"
OLDEST_POSTGRES = 150_000
CONNECT_SECONDS = 10.0
OTHER_MIGRATION_SECONDS = 0.1
# Postgres ends a migration that was frozen with locks in its hands.
_FROZEN_SECONDS = 30

_log = logging.getLogger(__name__)
_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")

_BOOKKEEPING = """
CREATE TABLE IF NOT EXISTS stepwell_schema (
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    apply_time timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS stepwell_version (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL,
    min_server integer NOT NULL
);
INSERT INTO stepwell_version (version, min_server) VALUES (0, 0) ON CONFLICT DO NOTHING;
"""


@dataclass(frozen=True, slots=True)
class Applied:
    """What `migrate` did."""

    from_version: int
    version: int
    numbers: tuple[int, ...]


class Standing(Enum):
    """How a database's schema stands to this server."""

    UP_TO_DATE = "up to date"
    BEHIND = "behind"
    AHEAD = "ahead, compatible"
    TOO_NEW = "too new"


@dataclass(frozen=True, slots=True)
class Window:
    """Whether this server may run on the database, and what to do if not."""

    standing: Standing
    schema: str
    version: int
    min_server: int
    server: int

    @property
    def may_run(self) -> bool:
        """Whether this server may serve."""
        return self.standing in {Standing.UP_TO_DATE, Standing.AHEAD}

    @property
    def advice(self) -> str:
        """Says how it stands and what to do."""
        where = f'schema "{self.schema}" has version {self.version}, this server has {self.server}'
        match self.standing:
            case Standing.UP_TO_DATE:
                return f'schema "{self.schema}" is up to date at version {self.version}'
            case Standing.AHEAD:
                return f"{where}, which may still run on it: upgrade the server when convenient"
            case Standing.BEHIND:
                return f"{where}: run `stepwell-server migrate`"
            case Standing.TOO_NEW:
                return f"{where}, and it bears none older than {self.min_server}: upgrade the server"


async def migrate(
    url: str,
    *,
    schema: str | None = None,
    migrations: Sequence[Migration] | None = None,
    patience: Patience | None = None,
) -> Applied:
    """Applies what the database lacks, while the service runs; of several at once, one works and the others wait.

    A database that is ahead of this server is left as it is. Raises MigrationError if it can't be done.
    """
    plan = shipped() if migrations is None else tuple(migrations)
    refuse_gaps(plan)
    schema = _checked(schema)
    async with (
        _connection(url, schema, "migrate") as connection,
        _alone(connection, schema),
        in_words(connection, schema),
    ):
        await _prepare(connection, schema)
        done = {row["number"]: row["checksum"] for row in await connection.fetch("SELECT * FROM stepwell_schema")}
        refuse_changed(plan, done)
        before = max(done, default=0)
        missing = [migration for migration in plan if migration.number > before]
        if missing:
            await check_rights(connection, schema)
        for migration in missing:
            await apply(connection, migration, patience or Patience())
        return Applied(before, max(before, len(plan)), tuple(migration.number for migration in missing))


async def check(url: str, *, schema: str | None = None, server: int | None = None) -> Window:
    """Compares the database with this server (or with another server's number) and changes nothing."""
    number = len(shipped()) if server is None else server
    schema = _checked(schema)
    async with _connection(url, schema, "readiness") as connection:
        row = None
        if await connection.fetchval("SELECT to_regclass($1)", f'"{schema}".stepwell_version'):
            row = await connection.fetchrow("SELECT version, min_server FROM stepwell_version")
    version, min_server = (row["version"], row["min_server"]) if row else (0, 0)
    return Window(_standing(version, min_server, number), schema, version, min_server, number)


def _standing(version: int, min_server: int, server: int) -> Standing:
    if version < server:
        return Standing.BEHIND
    # Also while a migration is under way that raises it.
    if server < min_server:
        return Standing.TOO_NEW
    return Standing.UP_TO_DATE if version == server else Standing.AHEAD


def _checked(schema: str | None) -> str:
    name = schema or DEFAULT_SCHEMA
    if not _SCHEMA_NAME.fullmatch(name):
        raise MigrationError(f"{name!r} cannot name a schema: use lower-case letters, digits and _, at most 63")
    return name


@asynccontextmanager
async def _connection(url: str, schema: str, purpose: str) -> AsyncIterator[asyncpg.Connection]:
    """Connects past any pooler's help: session locks and settings need a session of our own."""
    search_path = f'"{schema}"'
    reach = Reach(lambda: url, CONNECT_SECONDS, "read-write", Lineage().admit)

    async def another() -> asyncpg.Connection:
        settings = {"search_path": search_path, "application_name": f"stepwell {purpose}"}
        return (await reach.connect(statement_cache_size=0, server_settings=settings)).connection

    try:
        connection = await another()
    except Lost as error:
        raise Misaddressed(NOT_DIRECT) if refuses_settings(error) else error from error
    try:
        await require_direct(connection, search_path, another)
        # A pooler that keeps sessions will do, and may know no such parameter at their start.
        await connection.execute(f"SET idle_in_transaction_session_timeout = '{_FROZEN_SECONDS}s'")
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def _alone(connection: asyncpg.Connection, schema: str) -> AsyncIterator[None]:
    """Holds the schema's migration lock.

    It is asked for again and again, never waited for in the database: CREATE INDEX CONCURRENTLY waits for every older
    statement, thus also for one that waits for this lock, and the two would be a deadlock.
    """
    key = int.from_bytes(hashlib.blake2b(f"stepwell migrate {schema}".encode(), digest_size=8).digest(), signed=True)
    is_told = False
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", key):
        if not is_told:
            _log.warning("another migration of schema %s is under way: waiting for its end", schema)
            is_told = True
        await asyncio.sleep(OTHER_MIGRATION_SECONDS)
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", key)


async def _prepare(connection: asyncpg.Connection, schema: str) -> None:
    if int(await connection.fetchval("SHOW server_version_num")) < OLDEST_POSTGRES:
        raise MigrationError(f"Postgres {OLDEST_POSTGRES // 10_000} or newer is needed")
    # IF NOT EXISTS asks for the right to create before it looks; an operator may have made the schema for us.
    if not await connection.fetchval("SELECT to_regnamespace($1) IS NOT NULL", f'"{schema}"'):
        await connection.execute(f'CREATE SCHEMA "{schema}"')
    if await connection.fetchval("SELECT to_regclass('stepwell_version') IS NULL"):
        await check_rights(connection, schema)
        async with connection.transaction():
            await connection.execute(_BOOKKEEPING)
