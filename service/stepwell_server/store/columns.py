"""Rows to the columns that set-based statements take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import astuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    import msgspec


def columns(rows: Iterable[msgspec.Struct]) -> list[tuple[Any, ...]]:
    """Values whose fields are in the order of the table's columns, turned by a quarter."""
    return list(zip(*map(astuple, rows), strict=True))


def pairs(keys: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Tuples turned by a quarter."""
    return list(zip(*keys, strict=True))
