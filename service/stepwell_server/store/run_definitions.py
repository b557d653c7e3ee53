"""Definitions that starts name: found, and held for the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.model.runs import Followed
from stepwell_server.store.columns import pairs
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_server.model.definitions import DefinitionRef
    from stepwell_server.store.connection import Connection

STATEMENTS = load("definitions")

Named = tuple[int, "DefinitionRef"]


async def find(connection: Connection, wanted: Sequence[Named]) -> dict[Named, Followed]:
    """The definitions meant, by namespace and reference; those that are there."""
    by_id = [named for named in wanted if named[1].definition_id is not None]
    by_code = [named for named in wanted if named[1].definition_id is None]
    found: dict[Named, Followed] = {}
    if by_id:
        rows = [(space, ref.definition_id, ref.code, ref.version) for space, ref in by_id]
        for row in await connection.fetch(STATEMENTS["find_definitions_by_id"], *pairs(rows)):
            found[by_id[row[0] - 1]] = Followed(*row[1:])
    if by_code:
        codes = [(space, ref.code, ref.version) for space, ref in by_code]
        for row in await connection.fetch(STATEMENTS["find_definitions_by_code"], *pairs(codes)):
            found[by_code[row[0] - 1]] = Followed(*row[1:])
    return found


async def hold(connection: Connection, keys: Sequence[int]) -> set[int]:
    """Those of the definitions that are there and not being deleted; they stay until the batch has ended."""
    return {row[0] for row in await connection.fetch(STATEMENTS["hold_definitions"], keys)}
