"""A dedicated connection for the hot path: prepared statements with pinned plans, counted, remade by their owner."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import asyncpg

from stepwell_server.store.claim_floors import Floors
from stepwell_server.store.faults import REFUSED, Conflict, Lost, Unsettled, translated
from stepwell_server.store.statements import target_of, together
from stepwell_server.telemetry import metrics
from stepwell_server.telemetry.slow_log import slow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from stepwell_server.store.lineage import Timeline
    from stepwell_server.store.statements import Statement
    from stepwell_server.store.writing import Change, Insertion

Row = asyncpg.Record
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
        """Counts a commit."""
        self.commits += 1
        metrics.commits.inc()


class Connection:
    """One dedicated connection. Not for use by two tasks at a time."""

    def __init__(self, raw: asyncpg.Connection, counters: Counters, timeline: Timeline | None = None) -> None:
        self.raw = raw
        self.timeline = timeline
        """The history that it leads to, if that is known."""
        self._counters = counters
        self._prepared: dict[str, asyncpg.prepared_stmt.PreparedStatement] = {}
        self._shapes: dict[tuple[object, ...], asyncpg.prepared_stmt.PreparedStatement] = {}
        self.floors = Floors()
        """What its claims have seen of queues."""
        self._waits_to_begin = False
        self._is_done = False  # by one statement, while the transaction that was asked for has not ended

    async def fetch(self, statement: Statement, *arguments: Any) -> list[Row]:  # noqa: ANN401 - statement's parameters
        """Runs a named statement and answers its rows."""
        began = time.monotonic()
        try:
            if not (self._is_ready or statement.is_read):
                await self._begin()
            prepared = self._prepared.get(statement.name)
            if prepared is None:
                prepared = self._prepared[statement.name] = await self.raw.prepare(statement.sql)
            self._counters.sent()
            return await prepared.fetch(*arguments)
        except Exception as error:
            raise translated(error) from error
        finally:
            if (took := time.monotonic() - began) >= slow.seconds:
                slow.tell("statement", statement.name, took)

    async def fetchval(self, statement: Statement, *arguments: Any) -> Any:  # noqa: ANN401
        """The first column of the first row, or None."""
        rows = await self.fetch(statement, *arguments)
        return rows[0][0] if rows else None

    async def write(self, statement: Statement, columns: Sequence[Sequence[object]]) -> int:
        """Runs a set-based statement over columns and answers how many rows it touched."""
        began = time.monotonic()
        try:
            if not self._is_ready:
                await self._begin()
            prepared = self._prepared.get(statement.name)
            if prepared is None:
                prepared = self._prepared[statement.name] = await self.raw.prepare(statement.sql)
            self._counters.sent()
            await prepared.fetch(*columns)
            return int((prepared.get_statusmsg() or "0").rsplit(" ", 1)[-1])
        except Exception as error:
            raise translated(error) from error
        finally:
            if (took := time.monotonic() - began) >= slow.seconds:
                slow.tell("statement", statement.name, took, rows=len(columns[0]) if columns else 0)

    async def insert(self, statement: Statement, rows: Iterable[tuple[object, ...]]) -> None:
        """Puts rows into the table that a COPY names, with their values in the order of its columns.

        Cheaper than INSERT from arrays, for one row as for hundreds, on both sides; and less is written to the log.
        """
        table, columns = target_of(statement.sql)
        began = time.monotonic()
        try:
            if not self._is_ready:
                await self._begin()
            self._counters.sent()
            await self.raw.copy_records_to_table(table, records=rows, columns=columns)
        except Exception as error:
            raise translated(error) from error
        finally:
            if (took := time.monotonic() - began) >= slow.seconds:
                slow.tell("statement", statement.name, took)

    async def write_together(self, changes: Sequence[Change], insertions: Sequence[Insertion]) -> list[int]:
        """Does all of it by one statement; answers how many rows each change touched."""
        began = time.monotonic()
        try:
            if not self._is_ready:
                await self._begin()
            prepared = await self._prepare_together(changes, insertions, ())
            self._counters.sent()
            return list((await prepared.fetch(*_arguments(changes, insertions)))[0])
        except Exception as error:
            raise translated(error) from error
        finally:
            if (took := time.monotonic() - began) >= slow.seconds:
                slow.tell("statement", _names(changes, insertions), took, rows=_rows(insertions))

    async def write_alone(self, changes: Sequence[Change], insertions: Sequence[Insertion]) -> None:
        """Does all of it by one statement, which is the whole transaction: nothing may come before or after it.

        Raises Conflict, and has done nothing, if a change touches other than the expected rows.
        """
        if self.has_begun:
            raise AssertionError("the transaction has begun")
        expected = {place: each.expected for place, each in enumerate(changes) if each.expected is not None}
        try:
            prepared = await self._prepare_together(changes, insertions, tuple(expected))
        except Exception as error:
            raise translated(error) from error
        self._waits_to_begin, self._is_done = False, True
        self._counters.sent()
        began = time.monotonic()
        try:
            await prepared.fetch(*_arguments(changes, insertions), *expected.values())
        except asyncpg.DivisionByZeroError as error:
            raise Conflict(f"other rows than expected: {', '.join(each.statement.name for each in changes)}") from error
        except REFUSED as error:
            raise translated(error) from error
        except Exception as error:
            told = translated(error)
            raise Unsettled(str(error)) if isinstance(told, Lost) else told from error
        finally:
            if (took := time.monotonic() - began) >= slow.seconds:
                slow.tell("statement", _names(changes, insertions), took, rows=_rows(insertions))

    async def _prepare_together(
        self, changes: Sequence[Change], insertions: Sequence[Insertion], checked: tuple[int, ...]
    ) -> asyncpg.prepared_stmt.PreparedStatement:
        """The statement is prepared for as many rows as there are of each table; those used last are kept."""
        shape = (
            *[change.statement.name for change in changes],
            *[(each.statement.name, len(each.rows)) for each in insertions],
            checked,
        )
        prepared = self._shapes.pop(shape, None)
        if prepared is None:
            given = [(each.statement, len(each.rows)) for each in insertions]
            prepared = await self.raw.prepare(together([change.statement for change in changes], given, checked))
            if len(self._shapes) == _MOST_SHAPES:
                del self._shapes[next(iter(self._shapes))]
        self._shapes[shape] = prepared
        return prepared

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """A transaction. A connection lost in it is Lost, one lost in its COMMIT is Unsettled.

        It begins with the first statement that locks or changes anything; `write_alone` is one by itself.
        """
        self._waits_to_begin, self._is_done = True, False
        try:
            yield
        except BaseException:
            if self.has_begun and not self._is_done:
                with contextlib.suppress(Exception):
                    await self.raw.execute("ROLLBACK")
            self._waits_to_begin = self._is_done = False
            raise
        if self._waits_to_begin:
            self._waits_to_begin = False
            return
        if not self._is_done:
            began = time.monotonic()
            try:
                self._counters.sent()
                await self.raw.execute("COMMIT")
            except Exception as error:
                told = translated(error)
                raise Unsettled(str(error)) if isinstance(told, Lost) else told from error
            finally:
                if (took := time.monotonic() - began) >= slow.seconds:
                    slow.tell("statement", "COMMIT", took)
        self._is_done = False
        self._counters.committed()

    @property
    def has_begun(self) -> bool:
        """Whether anything that locks or changes was asked of the transaction."""
        return not self._waits_to_begin

    @property
    def _is_ready(self) -> bool:
        return not (self._waits_to_begin or self._is_done)

    async def _begin(self) -> None:
        if self._is_done:
            raise AssertionError("the transaction was one statement, and is over")
        self._waits_to_begin = False
        await self._control("BEGIN")

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


def _arguments(changes: Sequence[Change], insertions: Sequence[Insertion]) -> list[object]:
    columns: list[object] = [column for change in changes for column in change.columns]
    return columns + [value for each in insertions for row in each.rows for value in row]


def _names(changes: Sequence[Change], insertions: Sequence[Insertion]) -> str:
    return ", ".join([*(each.statement.name for each in changes), *(each.statement.name for each in insertions)])


def _rows(insertions: Sequence[Insertion]) -> int:
    return sum(len(each.rows) for each in insertions)
