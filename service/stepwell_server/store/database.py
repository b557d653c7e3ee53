"""Ways to Postgres: dedicated connections for the hot path, a pool for cold calls."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from stepwell_server.store.connection import Connection, Counters
from stepwell_server.store.faults import LOSSES, Lost, translated
from stepwell_server.telemetry import metrics
from stepwell_server.telemetry.slow_log import slow

if TYPE_CHECKING:
    from datetime import datetime

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


class Database:
    """The database of one server: makes connections, and holds the pool for cold calls."""

    def __init__(self, settings: Settings) -> None:
        if settings.database_url is None or settings.cold_url is None:
            raise ValueError("a database URL is needed")
        self._settings = settings
        self._url = settings.database_url
        self.counters = Counters()
        self.pool = _pool(settings, settings.cold_url)

    async def connect(self, *, pinned: bool = True, idle_session_seconds: float | None = None) -> Connection:
        """A dedicated connection. Raises Lost if the database can't be reached."""
        settings = self._settings
        options = {
            "search_path": settings.database_schema,
            "application_name": "stepwell",
            "timezone": "UTC",
            "lock_timeout": f"{int(settings.lock_seconds * 1000)}",
            "idle_in_transaction_session_timeout": f"{int(settings.idle_transaction_seconds * 1000)}",
        }
        if pinned:
            options |= _PINNED
        if idle_session_seconds is not None:
            options["idle_session_timeout"] = f"{int(idle_session_seconds * 1000)}"
        try:
            raw = await asyncpg.connect(
                self._url,
                timeout=settings.connect_seconds,
                command_timeout=settings.statement_seconds,
                server_settings=options,
            )
        except (*LOSSES, TimeoutError, asyncpg.PostgresError) as error:
            metrics.count_connect("failed")
            raise Lost(str(error) or type(error).__name__) from error
        metrics.count_connect("made")
        return Connection(raw, self.counters)

    async def reconnect(self, *, pinned: bool = True) -> Connection:
        """A dedicated connection, however long that takes."""
        delay = 0.05
        while True:
            try:
                return await self.connect(pinned=pinned)
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

    def pool_use(self) -> int:
        """How many of the pool's connections are in use."""
        used: int = self.pool.sync_engine.pool.checkedout()  # type: ignore[attr-defined]
        return used

    async def close(self) -> None:
        """Closes the pool."""
        await self.pool.dispose()


def _pool(settings: Settings, url: str) -> AsyncEngine:
    """Cold calls. Nothing in it needs a session of its own, so that a pooler may stand in between."""
    pool = create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://", 1),
        pool_size=settings.pool_connections,
        max_overflow=0,
        pool_timeout=settings.statement_seconds,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "timeout": settings.connect_seconds,
            "command_timeout": settings.statement_seconds,
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: "",
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
