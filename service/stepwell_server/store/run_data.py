"""Reading the data of runs: named payloads, as many as fit a message. The committer writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import func, select

from stepwell_server.model.payloads import Payload, unpack_payload
from stepwell_server.store.schema import RUN_DATA

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

    from stepwell_server.store.database import Database

EVERY = "*"
"""In place of names: all of them."""
_ROW_BYTES = 512


class DataPage(msgspec.Struct, frozen=True, gc=False):
    """Data of a list, and whether there is more."""

    data: dict[str, Payload]
    has_more: bool


async def page(  # noqa: PLR0917 - what is asked of one list
    database: Database, run_key: int, names: Collection[str], after: str, most: int, most_bytes: int
) -> DataPage:
    """A run's data by name, after one; fewer where they are large, but at least one. Walks run_data_pkey."""
    sized = (
        select(RUN_DATA.c.name, func.octet_length(RUN_DATA.c.payload))
        .where(*_of([run_key], names), RUN_DATA.c.name > after)
        .order_by(RUN_DATA.c.name)
        .limit(most + 1)
    )
    async with database.pool.begin() as connection:
        found = (await connection.execute(sized)).all()
        shown: list[str] = []
        for name, size in found[:most]:
            most_bytes -= size + _ROW_BYTES
            if most_bytes < 0 and shown:
                break
            shown.append(name)
        data = await read(connection, [run_key], shown) if shown else {}
    held = data.get(run_key, {})
    return DataPage({name: held[name] for name in shown if name in held}, len(found) > len(shown))


async def sizes(connection: AsyncConnection, run_keys: Sequence[int], names: Collection[str]) -> dict[int, int]:
    """About how many bytes of a message the data of runs take, by key; those that have any."""
    query = (
        select(RUN_DATA.c.run_key, func.sum(func.octet_length(RUN_DATA.c.payload) + _ROW_BYTES))
        .where(*_of(run_keys, names))
        .group_by(RUN_DATA.c.run_key)
    )
    return {row[0]: int(row[1]) for row in await connection.execute(query)}


async def read(
    connection: AsyncConnection, run_keys: Sequence[int], names: Collection[str]
) -> dict[int, dict[str, Payload]]:
    """The data of runs, by key and name."""
    query = select(RUN_DATA.c.run_key, RUN_DATA.c.name, RUN_DATA.c.payload).where(*_of(run_keys, names))
    found: dict[int, dict[str, Payload]] = {}
    for run_key, name, packed in await connection.execute(query):
        found.setdefault(run_key, {})[name] = unpack_payload(packed)
    return found


def _of(run_keys: Sequence[int], names: Collection[str]) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [RUN_DATA.c.run_key.in_(run_keys)]
    if EVERY not in names:
        conditions.append(RUN_DATA.c.name.in_(names))
    return conditions
