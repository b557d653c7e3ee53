"""What a batch writes, in the order of its tables: what changes and what goes first, then what is new.

Each trip to the database costs more than a few rows do: so few go in one statement. Many go table by table, the new
ones by COPY.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from stepwell_server.store.faults import Conflict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stepwell_server.store.connection import Connection
    from stepwell_server.store.statements import Statement

# Rows. Each number of rows of each table makes another statement, which the database must prepare.
_FEW = 8


class Change(NamedTuple):
    """A statement over columns, and how many rows it must touch; None: as many as there are."""

    statement: Statement
    columns: Sequence[Sequence[object]]
    expected: int | None


class Insertion(NamedTuple):
    """Rows for the table of a COPY."""

    statement: Statement
    rows: Sequence[tuple[Any, ...]]


class Writing:
    """See the module. What is sent together sees the tables as they were: a key that goes may not come in the same."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._changes: list[Change] = []
        self._insertions: list[Insertion] = []

    def change(self, statement: Statement, columns: Sequence[Sequence[object]], expected: int | None = None) -> None:
        """Notes a statement over columns. If it touches other than `expected` rows, `send` raises Conflict."""
        self._changes.append(Change(statement, columns, expected))

    def insert(self, statement: Statement, rows: Iterable[tuple[Any, ...]]) -> None:
        """Notes new rows, with their values in the order of the columns that the COPY names."""
        self._insertions.append(Insertion(statement, list(rows)))

    async def send(self, *, is_all: bool = False) -> None:
        """Writes all that was noted. Raises Conflict if what was decided on has changed.

        `is_all` tells that the transaction writes nothing further: one statement may do without a BEGIN and a COMMIT.
        """
        changes, insertions = self._changes, self._insertions
        self._changes, self._insertions = [], []
        if (insertions or len(changes) > 1) and sum(len(each.rows) for each in insertions) <= _FEW:
            if is_all and not self._connection.has_begun:
                await self._connection.write_alone(changes, insertions)
                return
            counts = await self._connection.write_together(changes, insertions)
        else:
            counts = [await self._connection.write(change.statement, change.columns) for change in changes]
            for statement, rows in insertions:
                await self._connection.insert(statement, rows)
        for change, touched in zip(changes, counts, strict=True):
            if change.expected is not None and touched != change.expected:
                raise Conflict(f"{change.statement.name}: {touched} rows of {change.expected}")
