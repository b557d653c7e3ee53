"""Ways to Postgres: dedicated connections for the hot path, a pool for cold calls.

The hot path owns its connections: prepared statements with pinned plans, counted, reconnected by their owner. What can
go wrong there is said in four words: Conflict (try the batch again), Rejected (some row of the batch is at fault), Lost
(the connection is gone and nothing was committed) and Unsettled (it went during COMMIT, so nobody knows).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from stepwell_server.store.claim_floors import Floors
from stepwell_server.store.statements import target_of, together
from stepwell_server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
    from datetime import datetime

    from stepwell_server.settings import Settings
    from stepwell_server.store.statements import Statement
    from stepwell_server.store.writing import Change, Insertion

Row = asyncpg.Record
# What the pool raises when all its connections stay in use.
NoConnectionFree = exc.TimeoutError


class Conflict(Exception):  # noqa: N818 - said of a batch, in one word
    """Somebody else was in the way: the whole batch may be tried again."""


class Rejected(Exception):  # noqa: N818
    """The database will not take some row of the batch, whoever else is there."""


class Lost(Exception):  # noqa: N818
    """The connection is gone, and what was under way was not committed."""


class Unsettled(Exception):  # noqa: N818
    """The connection went while a commit was under way."""


_CONFLICTS = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
)
# Where two batches may reach for the same key. Everywhere else the lock of the run or job is held: a row that is there
# already will be there the next time.
_CONTENDED = frozenset(
    {"run_ids", "workflow_ids", "job_ids", "unique_jobs", "requests", "user_tasks", "idempotency_keys", "run_debounces"}
)
_LOSSES = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby, after a failover
    OSError,
)
# Plans of batch statements must not depend on how large a table once was: keys are looked up, nothing is scanned.
_PINNED = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}


# For as many combinations of tables and numbers of rows a connection keeps a statement that is prepared.
_MOST_SHAPES = 64


class Counters:
    """What the hot path asked of the database since the start."""

    __slots__ = ("commits", "statements")

    def __init__(self) -> None:
        self.statements = 0
        self.commits = 0

    def sent(self) -> None:
        """Counts a statement."""
        self.statements += 1
        metrics.statements.inc()

    def committed(self) -> None:
        """Counts a COMMIT, which is a statement too."""
        self.sent()
        self.commits += 1
        metrics.commits.inc()


class Connection:
    """One dedicated connection. Not for use by two tasks at a time."""

    def __init__(self, raw: asyncpg.Connection, counters: Counters) -> None:
        self.raw = raw
        self._counters = counters
        self._prepared: dict[str, asyncpg.prepared_stmt.PreparedStatement] = {}
        self._shapes: dict[tuple[object, ...], asyncpg.prepared_stmt.PreparedStatement] = {}
        self.floors = Floors()
        """What its claims have seen of queues."""

    async def fetch(self, statement: Statement, *arguments: Any) -> list[Row]:  # noqa: ANN401 - statement's parameters
        """Runs a named statement and answers its rows."""
        try:
            prepared = self._prepared.get(statement.name)
            if prepared is None:
                prepared = self._prepared[statement.name] = await self.raw.prepare(statement.sql)
            self._counters.sent()
            return await prepared.fetch(*arguments)
        except Exception as error:
            raise translated(error) from error

    async def fetchval(self, statement: Statement, *arguments: Any) -> Any:  # noqa: ANN401
        """The first column of the first row, or None."""
        rows = await self.fetch(statement, *arguments)
        return rows[0][0] if rows else None

    async def write(self, statement: Statement, columns: Sequence[Sequence[object]]) -> int:
        """Runs a set-based statement over columns and answers how many rows it touched."""
        try:
            prepared = self._prepared.get(statement.name)
            if prepared is None:
                prepared = self._prepared[statement.name] = await self.raw.prepare(statement.sql)
            self._counters.sent()
            await prepared.fetch(*columns)
            return int((prepared.get_statusmsg() or "0").rsplit(" ", 1)[-1])
        except Exception as error:
            raise translated(error) from error

    async def insert(self, statement: Statement, rows: Iterable[tuple[object, ...]]) -> None:
        """Puts rows into the table that a COPY names, with their values in the order of its columns.

        Cheaper than INSERT from arrays, for one row as for hundreds, on both sides; and less is written to the log.
        """
        table, columns = target_of(statement.sql)
        self._counters.sent()
        try:
            await self.raw.copy_records_to_table(table, records=rows, columns=columns)
        except Exception as error:
            raise translated(error) from error

    async def write_together(self, changes: Sequence[Change], insertions: Sequence[Insertion]) -> list[int]:
        """Does all of it by one statement; answers how many rows each change touched.

        The statement is prepared for as many rows as there are of each table; those used last are kept.
        """
        shape = (
            *[change.statement.name for change in changes],
            *[(each.statement.name, len(each.rows)) for each in insertions],
        )
        try:
            prepared = self._shapes.pop(shape, None)
            if prepared is None:
                given = [(each.statement, len(each.rows)) for each in insertions]
                prepared = await self.raw.prepare(together([change.statement for change in changes], given))
                if len(self._shapes) == _MOST_SHAPES:
                    del self._shapes[next(iter(self._shapes))]
            self._shapes[shape] = prepared
            self._counters.sent()
            columns = [column for change in changes for column in change.columns]
            values = [value for each in insertions for row in each.rows for value in row]
            return list((await prepared.fetch(*columns, *values))[0])
        except Exception as error:
            raise translated(error) from error

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """A transaction. A connection lost in it is Lost, one lost in its COMMIT is Unsettled."""
        await self._control("BEGIN")
        try:
            yield
        except BaseException:
            with contextlib.suppress(Exception):
                await self.raw.execute("ROLLBACK")
            raise
        try:
            await self.raw.execute("COMMIT")
        except Exception as error:
            told = translated(error)
            raise Unsettled(str(error)) if isinstance(told, Lost) else told from error
        self._counters.committed()

    async def _control(self, command: str) -> None:
        self._counters.sent()
        try:
            await self.raw.execute(command)
        except Exception as error:
            raise translated(error) from error

    @property
    def closed(self) -> bool:
        """Whether the connection is known to be gone."""
        return self.raw.is_closed()

    async def close(self) -> None:
        """Closes it, without waiting long for a server that does not answer."""
        with contextlib.suppress(Exception):
            await self.raw.close(timeout=2)


def translated(error: Exception) -> Exception:
    """A driver's error in the words of this module."""
    if isinstance(error, _CONFLICTS):
        return Conflict(_said(error))
    if isinstance(error, asyncpg.UniqueViolationError) and error.table_name in _CONTENDED:
        return Conflict(_said(error))
    # What the driver can't encode is no loss, though it calls that an error of its interface.
    if isinstance(error, (ValueError, TypeError, OverflowError)):
        return Rejected(_said(error))
    if isinstance(error, _LOSSES):
        return Lost(_said(error))
    if isinstance(error, asyncpg.PostgresError):
        return Rejected(_said(error))
    return error


@contextlib.contextmanager
def in_our_words() -> Iterator[None]:
    """What goes wrong in the pool, in the words of this module; for who has no interceptor to tell it."""
    try:
        yield
    except exc.DBAPIError as error:
        cause = getattr(error.orig, "__cause__", None)
        told = translated(cause if isinstance(cause, Exception) else error)
        raise (Lost(str(told)) if error.connection_invalidated else told) from error
    except (OSError, NoConnectionFree) as error:
        raise Lost(str(error)) from error


def _said(error: Exception) -> str:
    """What went wrong, without what the database or the driver repeat of rows and arguments."""
    if isinstance(error, asyncpg.PostgresError):
        where = (error.table_name, error.column_name, error.constraint_name)
        return " ".join([type(error).__name__, str(error.sqlstate), *(name for name in where if name)])
    return type(error).__name__ if isinstance(error, (ValueError, TypeError)) else str(error)


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
        except (*_LOSSES, TimeoutError, asyncpg.PostgresError) as error:
            raise Lost(str(error) or type(error).__name__) from error
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

    return pool
