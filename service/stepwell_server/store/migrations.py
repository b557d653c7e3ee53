"""Brings a database to this server's schema: forward-only numbered SQL files, each applied once.

A server is known to the database by the number of its newest migration. Beside that number (`version`) the database
keeps `min_server`, the oldest server that may still run on it, raised by a migration that older ones cannot bear. A
file says so, and whatever else is special about it, in comment lines:

    -- stepwell: min-server 7       servers older than 7 must not run on what this file makes
    -- stepwell: no-transaction     its statements run one by one (CREATE INDEX CONCURRENTLY); each ends a line with `;`
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from importlib import resources
from typing import TYPE_CHECKING

import asyncpg

from stepwell_server.store.directness import NOT_DIRECT, Misaddressed, refuses_settings, require_direct
from stepwell_server.store.faults import Lost
from stepwell_server.store.lineage import Lineage
from stepwell_server.store.reaching import Reach

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

DEFAULT_SCHEMA = "stepwell"
OLDEST_POSTGRES = 150_000
# A migration that waits for a table's lock holds up everyone who comes after it: rather fail and try again.
LOCK_TIMEOUT_SECONDS = 3.0
LOCK_TRIES = 10
LOCK_PAUSE_SECONDS = 1.0
CONNECT_SECONDS = 10.0
OTHER_MIGRATION_SECONDS = 0.1

_log = logging.getLogger(__name__)
_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_MIN_SERVER = re.compile(r"^-- stepwell: min-server (\d+)\s*$", re.MULTILINE)
_NO_TRANSACTION = re.compile(r"^-- stepwell: no-transaction\s*$", re.MULTILINE)
_CONCURRENT_INDEX = re.compile(r"\bINDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?\"?(\w+)", re.IGNORECASE)
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


class MigrationError(RuntimeError):
    """The database cannot be brought to this server's schema; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """Changes with the text, but not with how a checkout ends its lines."""
        return hashlib.sha256(self.sql.replace("\r\n", "\n").encode()).hexdigest()

    @property
    def min_server(self) -> int:
        """The oldest server that may run on what this makes; 0 if any may."""
        match = _MIN_SERVER.search(self.sql)
        return int(match.group(1)) if match else 0

    @property
    def in_transaction(self) -> bool:
        """Whether it is applied as a whole or not at all."""
        return not _NO_TRANSACTION.search(self.sql)

    def statements(self) -> list[str]:
        """Splits a file that runs outside a transaction: together, its statements would be in one."""
        parts = re.split(r";[ \t]*$", self.sql, flags=re.MULTILINE)
        return [part for part in parts if re.sub(r"--.*", "", part).strip()]


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


def shipped() -> tuple[Migration, ...]:
    """Reads the files of this package, numbered from 1 without a gap."""
    found = []
    folder = resources.files("stepwell_server.store") / "migrations"
    for entry in folder.iterdir() if folder.is_dir() else ():
        match = _FILE_NAME.fullmatch(entry.name)
        if match:
            found.append(Migration(int(match.group(1)), match.group(2), entry.read_text(encoding="utf-8")))
        elif entry.name.endswith(".sql"):
            raise MigrationError(f"{entry.name} is not named like 0001_name.sql")
    found.sort(key=lambda migration: migration.number)
    _refuse_gaps(found)
    return tuple(found)


async def migrate(
    url: str,
    *,
    schema: str | None = None,
    migrations: Sequence[Migration] | None = None,
    lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
) -> Applied:
    """Applies what the database lacks, while the service runs; of several at once, one works and the others wait.

    A database that is ahead of this server is left as it is.
    """
    plan = shipped() if migrations is None else tuple(migrations)
    _refuse_gaps(plan)
    schema = _checked(schema)
    async with _connection(url, schema) as connection, _alone(connection, schema):
        await _prepare(connection, schema)
        done = {row["number"]: row["checksum"] for row in await connection.fetch("SELECT * FROM stepwell_schema")}
        _refuse_changed(plan, done)
        before = max(done, default=0)
        missing = [migration for migration in plan if migration.number > before]
        for migration in missing:
            await _apply(connection, schema, migration, lock_timeout_seconds)
        return Applied(before, max(before, len(plan)), tuple(migration.number for migration in missing))


async def check(url: str, *, schema: str | None = None, server: int | None = None) -> Window:
    """Compares the database with this server (or with another server's number) and changes nothing."""
    number = len(shipped()) if server is None else server
    schema = _checked(schema)
    async with _connection(url, schema) as connection:
        row = None
        if await connection.fetchval("SELECT to_regclass($1)", f'"{schema}".stepwell_version'):
            row = await connection.fetchrow("SELECT version, min_server FROM stepwell_version")
    version, min_server = (row["version"], row["min_server"]) if row else (0, 0)
    return Window(_standing(version, min_server, number), schema, version, min_server, number)


def _standing(version: int, min_server: int, server: int) -> Standing:
    if version == server:
        return Standing.UP_TO_DATE
    if version < server:
        return Standing.BEHIND
    return Standing.AHEAD if server >= min_server else Standing.TOO_NEW


def _checked(schema: str | None) -> str:
    name = schema or DEFAULT_SCHEMA
    if not _SCHEMA_NAME.fullmatch(name):
        raise MigrationError(f"{name!r} cannot name a schema: use lower-case letters, digits and _, at most 63")
    return name


def _refuse_gaps(migrations: Sequence[Migration]) -> None:
    for expected, migration in enumerate(migrations, start=1):
        if migration.number != expected:
            raise MigrationError(f"migration {expected} is missing: next comes {migration.number}_{migration.name}")


def _refuse_changed(plan: Sequence[Migration], done: dict[int, str]) -> None:
    for migration in plan:
        if done.get(migration.number, migration.checksum) != migration.checksum:
            raise MigrationError(
                f"migration {migration.number:04}_{migration.name} was changed after this database applied it: "
                f"restore the file, and put the change into a new one"
            )


@asynccontextmanager
async def _connection(url: str, schema: str) -> AsyncIterator[asyncpg.Connection]:
    """Connects past any pooler's help: session locks and settings need a session of our own."""
    search_path = f'"{schema}"'
    reach = Reach(lambda: url, CONNECT_SECONDS, "read-write", Lineage().admit)

    async def another() -> asyncpg.Connection:
        settings = {"search_path": search_path, "application_name": "stepwell-migrate"}
        return (await reach.connect(statement_cache_size=0, server_settings=settings)).connection

    try:
        connection = await another()
    except Lost as error:
        raise Misaddressed(NOT_DIRECT) if refuses_settings(error) else error from error
    try:
        await require_direct(connection, search_path, another)
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
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", key):  # noqa: ASYNC110 - see above
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
        async with connection.transaction():
            await connection.execute(_BOOKKEEPING)


async def _apply(connection: asyncpg.Connection, schema: str, migration: Migration, lock_timeout: float) -> None:
    _log.info("applying %04d_%s to schema %s", migration.number, migration.name, schema)
    if not migration.in_transaction:
        await _apply_online(connection, schema, migration)
        return
    for attempt in range(1, LOCK_TRIES + 1):
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {int(lock_timeout * 1000)}")
                await connection.execute(migration.sql)
                await _record(connection, migration)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if attempt == LOCK_TRIES:
                raise MigrationError(
                    f"migration {migration.number:04}_{migration.name} did not get its locks in {attempt} tries: "
                    f"end the long transactions on this database and repeat"
                ) from error
            await asyncio.sleep(LOCK_PAUSE_SECONDS)
        else:
            return


async def _apply_online(connection: asyncpg.Connection, schema: str, migration: Migration) -> None:
    """Runs statements that hold nobody up and may wait for long, so without a limit to their waiting."""
    await connection.execute("SET lock_timeout = 0")
    await connection.execute("SET statement_timeout = 0")
    await _drop_broken_indexes(connection, schema, migration)
    for statement in migration.statements():
        await connection.execute(statement)
    async with connection.transaction():
        await _record(connection, migration)


async def _drop_broken_indexes(connection: asyncpg.Connection, schema: str, migration: Migration) -> None:
    """Clears away what an interrupted attempt left: an invalid index, which IF NOT EXISTS takes for the real one."""
    broken = await connection.fetch(
        """
        SELECT quote_ident(index.relname) AS name
        FROM pg_index
        JOIN pg_class AS index ON index.oid = pg_index.indexrelid
        WHERE NOT pg_index.indisvalid
            AND index.relkind = 'i'
            AND index.relnamespace = $1::text::regnamespace
            AND index.relname = ANY($2::text[])
        """,
        f'"{schema}"',
        _CONCURRENT_INDEX.findall(migration.sql),
    )
    for row in broken:
        await connection.execute(f"DROP INDEX CONCURRENTLY {row['name']}")


async def _record(connection: asyncpg.Connection, migration: Migration) -> None:
    await connection.execute(
        "INSERT INTO stepwell_schema (number, name, checksum) VALUES ($1, $2, $3)",
        migration.number,
        migration.name,
        migration.checksum,
    )
    await connection.execute(
        "UPDATE stepwell_version SET version = $1, min_server = greatest(min_server, $2)",
        migration.number,
        migration.min_server,
    )
