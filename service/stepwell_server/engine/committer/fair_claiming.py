"""Claims of queues where keys take turns. What waits there without a key is a key of its own, ''."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.engine.fairness import share
from stepwell_server.store import fair_tasks

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from stepwell_server.engine.committer.protocols import Claim
    from stepwell_server.engine.fairness import Rounds, Turn
    from stepwell_server.store.connection import Connection
    from stepwell_server.store.fair_tasks import Found

# Keys may have less than their share, or somebody else has it: what is left is shared out anew.
_MOST_ROUNDS = 4


async def find(  # noqa: PLR0917 - one question
    connection: Connection,
    claim: Claim,
    rounds: Rounds,
    weights: Mapping[str, int],
    most: int,
    taken: Collection[Found],
) -> list[Found]:
    """Tasks for a claim, by turns. `taken` are those of the batch's other claims, which the table still has."""
    queue = (claim.namespace_id, claim.task_queue, claim.kind)
    found: list[Found] = []
    for _ in range(_MOST_ROUNDS):
        own, left = [*taken, *found], most - len(found)
        keys = await _keys(connection, claim, rounds.turn(*queue), left, own)
        shares, turn = share(keys, weights, rounds.turn(*queue), left)
        if not shares:
            break
        rounds.note(*queue, turn)
        mine = await fair_tasks.claim(connection, queue, claim.types, claim.builds, shares, own)
        found += [task for _, task in mine]
        if len(found) == most or not mine:
            break
    return found


async def _keys(connection: Connection, claim: Claim, turn: Turn, most: int, own: Collection[Found]) -> list[str]:
    """The keys whose turn comes next, at most so many: those behind the present one, and then from the first on."""
    queue, sorts = (claim.namespace_id, claim.task_queue, claim.kind), (claim.types, claim.builds)
    is_first = turn.key is None
    inclusive = turn.left > 0 or is_first
    keys = await fair_tasks.find_keys(connection, queue, *sorts, turn.key or "", most, own, inclusive=inclusive)
    if len(keys) < most and not is_first:
        seen = set(keys)
        again = await fair_tasks.find_keys(connection, queue, *sorts, "", most, own, inclusive=True)
        keys += [key for key in again if key not in seen][: most - len(keys)]
    return keys
