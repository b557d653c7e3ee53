"""The named statements of sql/*.sql, read once."""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_PARAMETER = re.compile(r"\$(\d+)")
_MORE_THAN_READS = re.compile(r"\b(COPY|INSERT|UPDATE|DELETE|SHARE|nextval|pg_notify|pg_\w*advisory\w*)\b")
_COPY = re.compile(r"COPY (\w+) \(([^)]+)\) FROM STDIN \(FORMAT binary\);")


class Statement(NamedTuple):
    """A statement: its noun (the file), its name, its text without comments.

    `is_read` tells that it neither changes nor locks anything: each statement sees what was committed before it, in a
    transaction or not.
    """

    noun: str
    name: str
    sql: str
    comment: str
    is_read: bool = False


def load(noun: str) -> dict[str, Statement]:
    """The statements of one file, by name."""
    text = resources.files("stepwell_server.store").joinpath("sql", f"{noun}.sql").read_text()
    _, *parts = _NAME.split(text)
    return {name: _statement(noun, name, body) for name, body in zip(parts[::2], parts[1::2], strict=True)}


@functools.cache
def target_of(sql: str) -> tuple[str, tuple[str, ...]]:
    """The table and the columns into which a COPY puts rows."""
    found = _COPY.fullmatch(sql)
    if found is None:
        raise ValueError(f"no COPY of rows: {sql}")
    return found[1], tuple(found[2].replace(",", " ").split())


def together(
    changes: Sequence[Statement], insertions: Sequence[tuple[Statement, int]], checked: Sequence[int] = ()
) -> str:
    """One statement that does what several do: it answers how many rows each of the changes touched.

    Takes the parameters of all one after another, those of an insertion row by row; then, for each of the changes at
    the places `checked`, how many rows it must touch. If one touches others, the statement divides by zero, and does
    nothing.
    """
    parts, count = [], 0
    for place, statement in enumerate(changes):
        told = "" if "RETURNING" in statement.sql else " RETURNING 1"
        parts.append(f"c{place} AS ({_renumbered(statement.sql, count)}{told})")
        count += len(set(_PARAMETER.findall(statement.sql)))
    counts = ", ".join(f"(SELECT count(*) FROM c{place})" for place in range(len(changes)))  # noqa: S608 - of numbers
    inserted = []
    for place, (statement, rows) in enumerate(insertions):
        table, columns = target_of(statement.sql)
        width = len(columns)
        values = ", ".join(_row(count + row * width, width) for row in range(rows))
        into = f"{table} ({', '.join(columns)})"
        inserted.append(f"i{place} AS (INSERT INTO {into} VALUES {values})")  # noqa: S608 - of our own statements
        count += rows * width
    if checked:
        as_asked = " AND ".join(
            f"(SELECT count(*) FROM c{place}) = ${count + number}::bigint"  # noqa: S608 - of numbers
            for number, place in enumerate(checked, 1)
        )
        counts = f"1 / (CASE WHEN {as_asked} THEN 1 ELSE 0 END), {counts}"
    # Postgres carries out the last of them first.
    return f"WITH {', '.join(parts + inserted[::-1])} SELECT {counts}"


def _row(before: int, width: int) -> str:
    return f"({', '.join(f'${before + number}' for number in range(1, width + 1))})"


def _renumbered(sql: str, before: int) -> str:
    return _PARAMETER.sub(lambda found: f"${int(found[1]) + before}", sql.rstrip(";"))


def _statement(noun: str, name: str, body: str) -> Statement:
    lines = body.strip().splitlines()
    comment = " ".join(line[3:] for line in lines if line.startswith("-- "))
    sql = "\n".join(line for line in lines if not line.startswith("--"))
    return Statement(noun, name, sql, comment, is_read=_MORE_THAN_READS.search(sql) is None)


def nouns() -> list[str]:
    """Every file of statements."""
    files = resources.files("stepwell_server.store").joinpath("sql").iterdir()
    return sorted(file.name.removesuffix(".sql") for file in files if file.name.endswith(".sql"))
