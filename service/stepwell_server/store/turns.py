"""Turns: who does the same thing at the same time waits for the other, until that transaction ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

if TYPE_CHECKING:
    from sqlalchemy import Select


def take_turn(what: str, *parts: object) -> Select[tuple[object]]:
    """A query that returns when nobody else has the turn. Deployments in one database have turns of their own."""
    name = "\n".join(map(str, (what, *parts)))
    key = func.hashtextextended(func.concat(func.current_schema(), "\n", name), 0)
    return select(func.pg_advisory_xact_lock(key))
