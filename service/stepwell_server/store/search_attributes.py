"""Search attributes of runs: what batches need of them, and reading them for people."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from msgspec.structs import astuple
from sqlalchemy import select

from stepwell_server.model.runs import unpack_details
from stepwell_server.model.search_attributes import AttributeKind, AttributeValue, SearchAttribute
from stepwell_server.store.columns import pairs
from stepwell_server.store.schema import SEARCH_ATTRIBUTES
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database
    from stepwell_server.store.runs import SeenRun

ATTRIBUTES = load("search_attributes")
_NUMBER = SearchAttribute.__struct_fields__.index("number_value")


# --- batches ----------------------------------------------------------------------------------------------------------


async def hold_closed(connection: Connection, keys: Sequence[int]) -> set[int]:
    """Those of the ended runs whose rows are locked for this batch; others are locked elsewhere, or open again."""
    return {row[0] for row in await connection.fetch(ATTRIBUTES["hold_closed_runs"], keys)}


async def read(connection: Connection, keys: Sequence[int]) -> list[SearchAttribute]:
    """All attributes of runs."""
    return [_row(row) for row in await connection.fetch(ATTRIBUTES["read_search_attributes"], keys)]


async def write(connection: Connection, changed: Iterable[SearchAttribute], gone: Sequence[tuple[int, str]]) -> None:
    """Puts values in the place of those of their names, and takes names away."""
    rows = sorted(changed, key=lambda row: (row.run_key, row.name))
    if rows:
        await connection.write(ATTRIBUTES["write_search_attributes"], pairs(map(_columns, rows)))
    if gone:
        await connection.write(ATTRIBUTES["delete_search_attributes"], pairs(sorted(gone)))


def _columns(row: SearchAttribute) -> tuple[Any, ...]:
    """Numbers go as the decimals that they are written as, so that integers and others compare as people read them."""
    values = list(astuple(row))
    values[_NUMBER] = exact(row.number_value)
    return tuple(values)


def exact(number: float | None) -> Decimal | None:
    """A number as the database keeps it."""
    return None if number is None else Decimal(repr(number))


# --- reading ----------------------------------------------------------------------------------------------------------


async def of_runs(database: Database, runs: Iterable[SeenRun]) -> dict[int, dict[str, AttributeValue]]:
    """The attributes of runs, by key and name; runs without any are left out."""
    if not (asked := [run for run in runs if _may_have(run)]):
        return {}
    async with database.pool.begin() as connection:
        return await of_runs_in(connection, asked)


async def of_runs_in(connection: AsyncConnection, runs: Iterable[SeenRun]) -> dict[int, dict[str, AttributeValue]]:
    """The same within a transaction. Walks search_attributes_pkey, unless no run can have any."""
    found: dict[int, dict[str, AttributeValue]] = {}
    if not (keys := [run.run_key for run in runs if _may_have(run)]):
        return found
    query = select(SEARCH_ATTRIBUTES).where(SEARCH_ATTRIBUTES.c.run_key.in_(keys))
    for row in await connection.execute(query.order_by(SEARCH_ATTRIBUTES.c.run_key, SEARCH_ATTRIBUTES.c.name)):
        attribute = _row(row)
        found.setdefault(attribute.run_key, {})[attribute.name] = attribute.value
    return found


def _may_have(run: SeenRun) -> bool:
    """An ended run may have got some after its end, of which its own row does not tell."""
    details = unpack_details(run.details)
    return run.is_closed or details.attributed or details.reopen_time is not None


def _row(row: Any) -> SearchAttribute:  # noqa: ANN401 - of either driver
    run_key, name, namespace_id, kind, text, number, time = row
    if number is not None:
        number = int(number) if kind == AttributeKind.INTEGER else float(number)
    return SearchAttribute(run_key, name, namespace_id, kind, text, number, time)
