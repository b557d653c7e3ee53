"""Rows to the columns that set-based statements take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import astuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    import msgspec


def columns(rows: Iterable[msgspec.Struct]) -> list[tuple[Any, ...]]:
    """Values whose fields are in the order of the table's columns, turned by a quarter."""
    return pairs(map(astuple, rows))


def pairs(keys: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Tuples turned by a quarter. A column of nothing but nulls is empty: `unnest` fills it up with them."""
    return [() if _is_null(column) else column for column in zip(*keys, strict=True)]


def _is_null(column: tuple[Any, ...]) -> bool:
    return column[0] is None and column.count(None) == len(column)
