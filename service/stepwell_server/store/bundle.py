"""What a debug bundle tells of the database: figures and names, no rows of anybody's.

Texts of statements are shown by their names, if they are ours: those of others may hold anything.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from stepwell_server.store import backlog, leaders
from stepwell_server.store.statements import load, nouns
from stepwell_server.telemetry import words_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from stepwell_server.store.connection import Connection

BUNDLE = load("bundle")
_SETTINGS = [
    "autovacuum",
    "autovacuum_max_workers",
    "autovacuum_naptime",
    "autovacuum_vacuum_cost_delay",
    "autovacuum_vacuum_cost_limit",
    "autovacuum_vacuum_scale_factor",
    "checkpoint_completion_target",
    "checkpoint_timeout",
    "commit_delay",
    "default_transaction_isolation",
    "effective_cache_size",
    "fsync",
    "full_page_writes",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "jit",
    "lock_timeout",
    "maintenance_work_mem",
    "max_connections",
    "max_wal_size",
    "random_page_cost",
    "shared_buffers",
    "statement_timeout",
    "superuser_reserved_connections",
    "synchronous_commit",
    "synchronous_standby_names",
    "tcp_keepalives_idle",
    "timezone",
    "track_io_timing",
    "wal_level",
    "work_mem",
]
_TOGETHER = re.compile(r"WITH [ci]0 AS \(")
_STATEMENTS = """
    SELECT query, calls, round(total_exec_time)::bigint AS total_milliseconds,
        round(mean_exec_time::numeric, 3)::float AS mean_milliseconds,
        round(max_exec_time)::bigint AS longest_milliseconds, rows, shared_blks_read AS blocks_read
    FROM {schema}.pg_stat_statements
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY total_exec_time DESC
    LIMIT 100
"""
Told = list[dict[str, Any]]


async def read_all(connection: Connection, schema: str) -> dict[str, object]:
    """All that there is to tell, by subject. What can't be read says why, and keeps nothing else from being told."""
    await connection.raw.execute("SET default_transaction_read_only TO on")
    now = datetime.now(UTC)
    arguments: Mapping[str, tuple[object, ...]] = {
        "read_server_settings": (_SETTINGS,),
        "read_tables": (schema,),
        "read_indexes": (schema,),
        "read_sequences": (schema,),
        "read_all_partitions": (schema,),
        "read_leader_lock": (leaders.lock_key(schema),),
        "count_sessions": (now,),
    }
    found: dict[str, object] = {}
    for name in BUNDLE:
        subject = name.partition("_")[2]
        found[subject] = await _told(partial(_rows, connection, name, *arguments.get(name, ())))
    found["backlog"] = await _told(lambda: _backlog(connection, now))
    found["dead_letters"] = await _told(lambda: backlog.count_dead_letters(connection))
    found["statements"] = await _told(lambda: _statements(connection))
    return found


async def _told(read: Callable[[], Awaitable[object]]) -> object:
    try:
        return await read()
    except Exception as error:  # noqa: BLE001 - whatever it is: the rest is told all the same
        return {"error": words_of(error)}


async def _rows(connection: Connection, name: str, *arguments: object) -> Told:
    return [_named(dict(row)) for row in await connection.fetch(BUNDLE[name], *arguments)]


async def _backlog(connection: Connection, now: datetime) -> Told:
    return [each._asdict() for each in await backlog.read_backlog(connection, now)]


async def _statements(connection: Connection) -> Told | str:
    """What took the database most time, if it keeps account of that."""
    raw = connection.raw
    asked = "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'pg_stat_statements'"
    schema = await raw.fetchval(asked)
    if schema is None:
        return "the extension pg_stat_statements is not there"
    return [_named(dict(row)) for row in await raw.fetch(_STATEMENTS.format(schema=schema))]


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the name of a statement of ours in place of its text."""
    if "query" in row:
        row["statement"] = name_of(row.pop("query") or "")
    return row


def name_of(text: str) -> str:
    """The name of a statement of ours; of any other text nothing is told."""
    if _TOGETHER.match(text):
        return "several together"
    if text in {"BEGIN", "COMMIT", "ROLLBACK"}:
        return text
    return _names().get(text, "another")


def _names() -> dict[str, str]:
    if not _KNOWN:
        for noun in nouns():
            _KNOWN.update({each.sql: f"{noun}.{each.name}" for each in load(noun).values()})
    return _KNOWN


_KNOWN: dict[str, str] = {}
