"""What can go wrong in the database, in four words.

Conflict: try the batch again. Rejected: some row of the batch is at fault. Lost: the connection is gone and nothing was
committed. Unsettled: it went while a commit was under way, so nobody knows.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import asyncpg
from sqlalchemy import exc

if TYPE_CHECKING:
    from collections.abc import Iterator

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
# already will be there the next time, unless what was kept of the run is old.
_CONTENDED = frozenset(
    {"run_ids", "workflow_ids", "job_ids", "unique_jobs", "requests", "user_tasks", "idempotency_keys", "run_debounces"}
)
LOSSES = (
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
# Of those, what the server says of a statement that it has not carried out.
REFUSED = (asyncpg.InsufficientResourcesError, asyncpg.ReadOnlySQLTransactionError)


def translated(error: Exception) -> Exception:
    """A driver's error in the words of this module."""
    if isinstance(error, _CONFLICTS):
        return Conflict(_said(error))
    if isinstance(error, asyncpg.UniqueViolationError) and error.table_name in _CONTENDED:
        return Conflict(_said(error))
    # What the driver can't encode is no loss, though it calls that an error of its interface.
    if isinstance(error, (ValueError, TypeError, OverflowError)):
        return Rejected(_said(error))
    if isinstance(error, LOSSES):
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
