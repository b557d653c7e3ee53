"""The named statements of sql/*.sql, read once."""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import NamedTuple

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_COPY = re.compile(r"COPY (\w+) \(([^)]+)\) FROM STDIN \(FORMAT binary\);")


class Statement(NamedTuple):
    """A statement: its noun (the file), its name, its text without comments."""

    noun: str
    name: str
    sql: str
    comment: str


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


def _statement(noun: str, name: str, body: str) -> Statement:
    lines = body.strip().splitlines()
    comment = " ".join(line[3:] for line in lines if line.startswith("-- "))
    sql = "\n".join(line for line in lines if not line.startswith("--"))
    return Statement(noun, name, sql, comment)


def nouns() -> list[str]:
    """Every file of statements."""
    files = resources.files("stepwell_server.store").joinpath("sql").iterdir()
    return sorted(file.name.removesuffix(".sql") for file in files if file.name.endswith(".sql"))
