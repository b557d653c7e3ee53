"""Ways to Postgres: dedicated connections for the hot path, a pool for cold calls."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from stepwell_server.store.connection import Connection, Counters
from stepwell_server.store.directness import ANOTHER_DATABASE, Misaddressed
from stepwell_server.store.faults import Lost, translated
from stepwell_server.store.lineage import Lineage
from stepwell_server.store.reaching import Reach
from stepwell_server.telemetry import metrics
from stepwell_server.telemetry.slow_log import slow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    import asyncpg

    from stepwell_server.settings import Settings

# Plans of batch statements must not depend on how large a table once was: keys are looked up, nothing is scanned.
_PINNED = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}
_BEGAN, _TEXT = "stepwell_began", 160

_log = structlog.get_logger("stepwell.database")
# A server is known by when it began.
_WHICH_DATABASE = """
    SELECT pg_postmaster_start_time(), oid::bigint FROM pg_database WHERE datname = current_database()
"""


class Database:
    """The database of one server: makes connections, and holds the pool for cold calls."""

    def __init__(self, settings: Settings) -> None:
        if settings.direct_url() is None:
            raise ValueError("a database URL is needed")
        self._settings = settings
        self.lineage = Lineage()
        # Reads may go on where writes must not, but a standby is never what is meant.
        self._direct = Reach(settings.direct_url, settings.connect_seconds, "read-write", self.lineage.admit)
        self._cold = Reach(settings.cold_url, settings.connect_seconds, "primary", self.lineage.admit)
        self.counters = Counters()
        self._said = ""
        self.pool = _pool(settings, self._connect_cold)

    async def connect(
        self, purpose: str = "", *, pinned: bool = True, idle_session_seconds: float | None = None
    ) -> Connection:
        """A dedicated connection. Raises Lost if the database can't be reached.

        `purpose` is for whoever looks at the connections in the database: docs/operations/size.md lists them.
        """
        settings = self._settings
        options = {
            "search_path": settings.database_schema,
            "application_name": named(purpose),
            "timezone": "UTC",
            # An operator's own default may be another.
            "default_transaction_isolation": "read committed",
            "lock_timeout": f"{int(settings.lock_seconds * 1000)}",
            "idle_in_transaction_session_timeout": f"{int(settings.idle_transaction_seconds * 1000)}",
        }
        if pinned:
            options |= _PINNED
        if idle_session_seconds is not None:
            options["idle_session_timeout"] = f"{int(idle_session_seconds * 1000)}"
        try:
            seconds = settings.statement_seconds
            raw, timeline = await self._direct.connect(command_timeout=seconds, server_settings=options)
        except Lost as error:
            metrics.count_connect("failed")
            self._say(str(error))
            raise
        metrics.count_connect("made")
        self._say("")
        return Connection(raw, self.counters, timeline)

    def _say(self, cause: str) -> None:
        """Once for each cause, since all connections are lost together and tried again and again."""
        if cause == self._said:
            return
        self._said = cause
        if cause:
            _log.warning("database away", cause=cause)
        else:
            _log.info("database there")

    async def _connect_cold(self, **options: Any) -> asyncpg.Connection:  # noqa: ANN401 - the driver's
        return (await self._cold.connect(**options)).connection

    async def reconnect(self, purpose: str = "", *, pinned: bool = True) -> Connection:
        """A dedicated connection, however long that takes."""
        delay = 0.05
        while True:
            try:
                return await self.connect(purpose, pinned=pinned)
            except Lost:
                await asyncio.sleep(delay)
                delay = min(delay * 2, self._settings.reconnect_seconds_maximum)

    async def time(self, connection: Connection) -> tuple[datetime, float]:
        """The database's clock, and how long the answer took."""
        asked = time.monotonic()
        try:
            now: datetime = await connection.raw.fetchval("SELECT clock_timestamp()")
        except Exception as error:
            raise translated(error) from error
        return now, time.monotonic() - asked

    async def check_pool(self) -> None:
        """Raises Misaddressed if cold calls have an address of their own which leads to another database.

        Raises Lost if one of the two leads to none.
        """
        if not self._settings.has_cold_url:
            return
        connection = await self.connect("readiness", pinned=False)
        try:
            there = tuple(await connection.raw.fetchrow(_WHICH_DATABASE) or ())
            async with self.pool.begin() as pooled:
                here = tuple((await pooled.exec_driver_sql(_WHICH_DATABASE)).one())
        except Exception as error:
            raise Lost(f"by STEPWELL_POOL_URL: {getattr(error, 'orig', None) or error}") from error
        finally:
            await connection.close()
        if here != there:
            raise Misaddressed(ANOTHER_DATABASE)

    def pool_use(self) -> int:
        """How many of the pool's connections are in use."""
        used: int = self.pool.sync_engine.pool.checkedout()  # type: ignore[attr-defined]
        return used

    async def close(self) -> None:
        """Closes the pool."""
        await self.pool.dispose()


def named(purpose: str) -> str:
    """How a connection is called in `pg_stat_activity`, where people count them."""
    return f"stepwell {purpose}".rstrip()


def _pool(settings: Settings, connect: Callable[..., Awaitable[asyncpg.Connection]]) -> AsyncEngine:
    """Cold calls. Nothing in it needs a session of its own, so that a pooler may stand in between."""
    pool = create_async_engine(
        "postgresql+asyncpg://",
        pool_size=settings.pool_connections,
        max_overflow=0,
        pool_timeout=settings.statement_seconds,
        pool_pre_ping=True,
        hide_parameters=True,
        isolation_level="READ COMMITTED",
        connect_args={
            "async_creator_fn": connect,
            "command_timeout": settings.statement_seconds,
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: "",
            "server_settings": {"application_name": named("pool")},
        },
    )

    @event.listens_for(pool.sync_engine, "begin")
    def _choose_schema(connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
        connection.exec_driver_sql(f"SET LOCAL search_path TO {settings.database_schema}")

    if settings.slow_seconds:
        _watch(pool)
    return pool


def _watch(pool: AsyncEngine) -> None:
    """Tells of slow statements: by their texts, which hold no values."""

    @event.listens_for(pool.sync_engine, "before_cursor_execute")
    def _begin(connection: Any, *_: object) -> None:  # noqa: ANN401 - SQLAlchemy's
        connection.info[_BEGAN] = time.monotonic()

    @event.listens_for(pool.sync_engine, "after_cursor_execute")
    def _end(connection: Any, _cursor: object, statement: str, *_: object) -> None:  # noqa: ANN401 - SQLAlchemy's
        if (took := time.monotonic() - connection.info[_BEGAN]) >= slow.seconds:
            slow.tell("statement", _shortened(statement), took)

    @event.listens_for(pool.sync_engine, "handle_error")
    def _fail(failed: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
        began = None if failed.connection is None else failed.connection.info.get(_BEGAN)
        if began is not None and failed.statement and (took := time.monotonic() - began) >= slow.seconds:
            slow.tell("statement", _shortened(failed.statement), took)


def _shortened(statement: str) -> str:
    return " ".join(statement.split())[:_TEXT]
