"""Databases as the first migration made and filled them, and what is told of their tables."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
from tests.databases import drop_database
from tests.stream.calls import Caller
from tests.upgrades import dumps

from stepwell.v1.workers_pb2 import Task
from stepwell_server.embedded import create_database
from stepwell_server.store.migrations import migrate, shipped

ROWS = Path(__file__).with_name("first.sql")
MANY = 1_000
"""A table with more rows than that is a big one here."""


@asynccontextmanager
async def database(server_url: str, template: str | None = None) -> AsyncIterator[str]:
    """A database of the test's own."""
    name = f"upgrade_{uuid.uuid4().hex[:12]}"
    yield await create_database(server_url, name, template)
    await drop_database(server_url, name)


@asynccontextmanager
async def connected(url: str, **settings: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection in the schema."""
    connection = await asyncpg.connect(url, server_settings={"search_path": "stepwell", **settings})
    try:
        yield connection
    finally:
        await connection.close()


async def fill_first(server_url: str, url: str, folder: Path) -> None:
    """Fills an empty database with a dump of one that the first migration made, and that was in use."""
    async with database(server_url) as source:
        await migrate(source, migrations=shipped()[:1])
        async with connected(source) as connection:
            await connection.execute(ROWS.read_text())
        file = folder / "first.dump"
        await dumps.dump(source, file)
    await dumps.restore(file, url)


async def files_of_big_tables(connection: asyncpg.Connection) -> dict[str, int]:
    """The file of each table with many rows: another one means that all was written anew."""
    rows = await connection.fetch(
        "SELECT relname, relfilenode FROM pg_class WHERE relnamespace = 'stepwell'::regnamespace AND relkind = 'r'"
    )
    many = "SELECT count(*) > {0} FROM (SELECT FROM {1} LIMIT {0} + 1) AS x"
    return {name: file for name, file in rows if await connection.fetchval(many.format(MANY, name))}


# Everything that migrations make. An index of a partition is called as its maker pleases.
_SHAPE = """
    SELECT 'column', c.relname || '.' || a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::text,
        coalesce(pg_get_expr(d.adbin, d.adrelid), '')
    FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'stepwell'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 'index', i.indrelid::regclass::text,
        regexp_replace(pg_get_indexdef(i.indexrelid), 'INDEX \\S+ ON', 'INDEX ON'), i.indisvalid::text,
        CASE WHEN c.relispartition THEN '' ELSE c.relname END
    FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
    WHERE c.relnamespace = 'stepwell'::regnamespace
    UNION ALL
    SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated::text
    FROM pg_constraint WHERE connamespace = 'stepwell'::regnamespace AND contype = 'c'
    UNION ALL
    SELECT 'function', proname, pg_get_function_identity_arguments(oid), md5(prosrc), provolatile::text
    FROM pg_proc WHERE pronamespace = 'stepwell'::regnamespace
    UNION ALL
    SELECT 'sequence', relname, '', '', '' FROM pg_class
    WHERE relnamespace = 'stepwell'::regnamespace AND relkind = 'S'
"""


async def shape(url: str) -> set[tuple[Any, ...]]:
    """What the schema is made of."""
    async with connected(url) as connection:
        return {tuple(row) for row in await connection.fetch(_SHAPE)}


async def until_blocked(connection: asyncpg.Connection, *, seconds: float = 60.0) -> None:
    """Returns once somebody waits for a lock of this connection."""
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    async with asyncio.timeout(seconds):
        while not await connection.fetchval(query):  # noqa: ASYNC110 - only the database knows
            await asyncio.sleep(0.01)


async def claimed(caller: Caller, kind: int, count: int = 1) -> list[Task]:
    """So many tasks, by claims that are shorter than the caller's session."""
    found: dict[str, Task] = {}
    async with asyncio.timeout(60):
        while len(found) < count:
            found |= {task.ref.task_id: task for task in await caller.claim(wait=1.0, kind=kind, max_tasks=count)}
    return list(found.values())
