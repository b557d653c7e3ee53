"""Migrated databases, lent to one test at a time: emptying one that comes back costs less than making a new one.

A database is lent again only if nobody is connected to it any more and if it is what the template is: its rows, its
sequences, its schema and its statistics. Any other is dropped, and a new one is made when it is needed.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import asyncpg

from stepwell_server.embedded import create_database

# A larger table is quicker truncated, for that makes its files anew; a smaller one is quicker emptied row by row.
TRUNCATED_BYTES = 64 * 1024
# A test's last connections are on their way out for some milliseconds.
LEAVING_SECONDS = 2.0
LEAVING_TURN_SECONDS = 0.002

_TABLES = """
    SELECT oid::regclass::text AS name, pg_relation_size(oid) AS bytes FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'stepwell'::regnamespace
"""
_SEQUENCES = """
    SELECT oid::regclass::text AS name FROM pg_class
    WHERE relkind = 'S' AND relnamespace = 'stepwell'::regnamespace ORDER BY 1
"""
# All that is not rows. Statistics count, for plans depend on them. Objects made after initdb have these numbers.
_SHAPE = """
    SELECT
      (SELECT array_agg(row(relname, relkind, relnatts, relchecks, relacl, reloptions)::text ORDER BY relname)
        FROM pg_class WHERE relnamespace = 'stepwell'::regnamespace),
      (SELECT count(*) FROM pg_class WHERE oid >= 16384 AND relkind = 'r' AND reltuples >= 0),
      (SELECT array_agg(row(nspname, nspacl)::text ORDER BY nspname) FROM pg_namespace WHERE nspname !~ '^pg_'),
      (SELECT array_agg(row(proname, pronamespace, md5(prosrc))::text ORDER BY proname, prosrc) FROM pg_proc
        WHERE oid >= 16384),
      (SELECT sum(hashtextextended(attname || ' ' || atttypid || ' ' || attnotnull, attrelid::bigint)) FROM pg_attribute
        WHERE attrelid >= 16384 AND attnum > 0 AND NOT attisdropped),
      (SELECT count(*) FROM pg_class WHERE oid >= 16384),
      (SELECT count(*) FROM pg_constraint WHERE oid >= 16384),
      (SELECT count(*) FROM pg_trigger),
      (SELECT count(*) FROM pg_extension),
      (SELECT count(*) FROM pg_statistic),
      (SELECT count(*) FROM pg_db_role_setting)
"""
_OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@dataclass(frozen=True)
class Contents:
    """What is in a database: all that is not rows, and each table's rows as text."""

    shape: tuple[Any, ...]
    rows: dict[str, list[str]]

    @classmethod
    async def of(cls, connection: asyncpg.Connection) -> Contents:
        """Looks."""
        tables = {name: size for name, size in await connection.fetch(_TABLES)}  # noqa: C416 - rows are no pairs
        rows = await _rows(connection, [name for name in tables if tables[name]])
        return cls(tuple(await connection.fetchrow(_SHAPE) or ()), {name: rows.get(name, []) for name in tables})


@dataclass(frozen=True)
class Database:
    """One of them, with the connection that empties it."""

    name: str
    url: str
    connection: asyncpg.Connection


class Databases:
    """Those that are made from one template in one server."""

    def __init__(self, server_url: str, template: str) -> None:
        self._server_url = server_url
        self._template = template
        self._contents: Contents
        self._sequences: str
        self._idle: list[Database] = []

    async def start(self) -> None:
        """Makes the first, and looks at what is in it."""
        first = await self._make()
        self._contents = await Contents.of(first.connection)
        self._sequences = await _setting_sequences(first.connection)
        self._idle.append(first)

    async def lend(self) -> Database:
        """One that is as the template is."""
        return self._idle.pop() if self._idle else await self._make()

    async def give_back(self, database: Database) -> None:
        """Takes it back, to be lent again if that can be."""
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            await self._empty(database.connection)
            if await Contents.of(database.connection) == self._contents:
                self._idle.append(database)
                return
        await self._drop(database)

    async def close(self) -> None:
        """Drops them."""
        while self._idle:
            await self._drop(self._idle.pop())

    async def _make(self) -> Database:
        name = f"test_{uuid.uuid4().hex[:12]}"
        url = await create_database(self._server_url, name, self._template)
        return Database(name, url, await asyncpg.connect(url))

    async def _drop(self, database: Database) -> None:
        database.connection.terminate()
        await drop_database(self._server_url, database.name)

    async def _empty(self, connection: asyncpg.Connection) -> None:
        async with asyncio.timeout(LEAVING_SECONDS):
            while await connection.fetchval(_OTHERS):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(LEAVING_TURN_SECONDS)
        wanted = self._contents.rows
        there = await _rows(connection, [name for name in wanted if wanted[name]])
        statements = [self._sequences]
        for name, size in await connection.fetch(_TABLES):
            if name not in wanted:
                # A partition: whatever else a test made is another test's to find.
                statements.append(f"DROP TABLE {name}")
            elif size and (not wanted[name] or wanted[name] != there[name]):
                statements.append(f"TRUNCATE {name}" if size > TRUNCATED_BYTES else f"DELETE FROM {name}")  # noqa: S608
                statements += [_insert(name, wanted[name])] if wanted[name] else []
        await connection.execute("; ".join(statements))


async def drop_database(server_url: str, name: str) -> None:
    """Drops a database, whoever is connected to it."""
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await connection.close()


async def _rows(connection: asyncpg.Connection, tables: Iterable[str]) -> dict[str, list[str]]:
    """The rows of some tables as text."""
    names = list(tables)
    columns = ", ".join(f"ARRAY(SELECT t::text FROM {name} AS t ORDER BY 1)" for name in names)  # noqa: S608
    return dict(zip(names, await connection.fetchrow(f"SELECT {columns}") or (), strict=True))


async def _setting_sequences(connection: asyncpg.Connection) -> str:
    """The statement that sets all sequences to what they are now."""
    calls = []
    for (name,) in await connection.fetch(_SEQUENCES):
        ((last, called),) = await connection.fetch(f"SELECT last_value, is_called FROM {name}")  # noqa: S608
        calls.append(f"setval({_literal(name)}, {last}, {called})")
    return f"SELECT {', '.join(calls)}"


def _insert(table: str, rows: list[str]) -> str:
    array = ", ".join(_literal(row) for row in rows)
    return f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM unnest(ARRAY[{array}]::{table}[])"  # noqa: S608


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
