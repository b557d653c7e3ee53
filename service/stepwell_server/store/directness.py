"""Whether a connection leads to Postgres itself, or to a pooler that gives each transaction another session.

Advisory locks, LISTEN, prepared statements and settings need a session of their own. Behind a pooler in transaction
mode they fail late or, worse, seem to work.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from stepwell_server.store.faults import Lost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NOT_DIRECT = (
    "STEPWELL_DATABASE_URL leads to a pooler, behind which sessions are not kept: set it to the address of Postgres "
    "itself, and give the pooler's to STEPWELL_POOL_URL"
)
ANOTHER_DATABASE = "STEPWELL_POOL_URL leads to another database than STEPWELL_DATABASE_URL: set it to the same one's"
_BACKEND = "SELECT pg_backend_pid()"
_TRIES = 5
_SECONDS = 3.0
# What PgBouncer says of the settings that a session begins with.
_REFUSED_SETTINGS = "unsupported startup parameter"


class Misaddressed(Exception):  # noqa: N818 - said of what was set
    """The addresses that are set can't be worked with; the message says what to set."""


def refuses_settings(error: Lost) -> bool:
    """Whether a connection could not be made because a pooler refused its settings."""
    return _REFUSED_SETTINGS in str(error)


async def require_direct(
    connection: asyncpg.Connection, search_path: str, another: Callable[[], Awaitable[asyncpg.Connection]]
) -> None:
    """Raises Misaddressed unless the connection has a session of its own, which began with this `search_path`.

    `another` opens a second connection. It is asked for only where the first goes through something: then the process
    that was named at its beginning is another than the one that answers.
    """
    if await connection.fetchval(_BACKEND) == connection.get_server_pid():
        return
    if await connection.fetchval("SELECT current_setting('search_path')") != search_path:
        raise Misaddressed(NOT_DIRECT)
    try:
        async with asyncio.timeout(_SECONDS):
            if await _shares_sessions(connection, another):
                raise Misaddressed(NOT_DIRECT)
    except TimeoutError:
        # The pooler had no session left while the second connection kept one.
        raise Misaddressed(NOT_DIRECT) from None


async def _shares_sessions(
    connection: asyncpg.Connection, another: Callable[[], Awaitable[asyncpg.Connection]]
) -> bool:
    """Whether a second connection's transaction takes the first one's session away."""
    second = await another()
    try:
        for _ in range(_TRIES):
            before = await connection.fetchval(_BACKEND)
            async with second.transaction():
                if await second.fetchval(_BACKEND) == before or await connection.fetchval(_BACKEND) != before:
                    return True
    finally:
        second.terminate()
    return False
