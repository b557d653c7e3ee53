"""What waits in queues where keys take turns: of which keys, and their tasks, locked."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from stepwell_server.store.connection import Connection

STATEMENTS = load("fair_tasks")
Queue = tuple[int, str, int]
Found = tuple[int, int, datetime]
"""A task: run key, ordinal, since when it waits."""
_BEFORE_ALL, _BEHIND_ALL = -1, 32_767


async def find_keys(  # noqa: PLR0917 - the statement's parameters
    connection: Connection,
    queue: Queue,
    types: Sequence[str],
    builds: Sequence[str],
    key: str,
    most: int,
    own: Collection[Found],
    *,
    inclusive: bool,
) -> list[str]:
    """The keys of which something waits besides `own`, in their order: those after a key, or from it on."""
    statement, after = STATEMENTS["find_fairness_keys"], from_key(key, inclusive=inclusive)
    rows = await connection.fetch(statement, *queue, types, ["", *builds], *after, most, *names(own))
    return [row[0] for row in rows]


async def claim(  # noqa: PLR0917 - the statement's parameters
    connection: Connection,
    queue: Queue,
    types: Sequence[str],
    builds: Sequence[str],
    shares: Mapping[str, int],
    own: Collection[Found],
) -> list[tuple[str, Found]]:
    """The tasks that go first of each key besides `own`, at most so many of each, locked; each with its key."""
    statement, keys = STATEMENTS["claim_fair_tasks"], list(shares)
    rows = await connection.fetch(statement, *queue, types, ["", *builds], keys, list(shares.values()), *names(own))
    return [(keys[row[3] - 1], (row[0], row[1], row[2])) for row in rows]


def from_key(key: str, *, inclusive: bool) -> tuple[str, int]:
    """Where a walk over keys begins: behind all of a key, or before."""
    return key, _BEFORE_ALL if inclusive else _BEHIND_ALL


def names(own: Collection[Found]) -> tuple[list[int], list[int]]:
    """Tasks by run key and ordinal, as statements take them."""
    return [task[0] for task in own], [task[1] for task in own]
