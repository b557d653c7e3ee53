"""Claims of queues whose keys have a limit each: what waits of a key that is out of tokens is passed over.

A claim makes so many looks at most, each at so many keys, whatever waits. See `engine.key_limits` for who goes on.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from stepwell_server.engine.fairness import Turn
from stepwell_server.engine.key_limits import share
from stepwell_server.store import fair_tasks, key_buckets

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from stepwell_server.engine.committer.key_rationing import KeyRationing
    from stepwell_server.engine.committer.protocols import Claim
    from stepwell_server.engine.key_limits import Lap, Walk
    from stepwell_server.store.connection import Connection
    from stepwell_server.store.fair_tasks import Found

_MOST_LOOKS = 4
# Keys of a look: fewer where types and builds are many, for each of them is looked at. They take some 2 ms, in which
# nobody else's commands of the batch go on.
_LOOKED, _FEWEST_LOOKED = 128, 16


async def find(  # noqa: PLR0917 - one question
    connection: Connection,
    claim: Claim,
    walk: Walk,
    ration: KeyRationing,
    most: int,
    taken: Collection[Found],
    again: datetime,
) -> tuple[list[Found], datetime | None]:
    """Tasks for a claim, by turns; and when there may be more, if it is for lack of tokens that there are no more.

    That is `again`, if not all keys were looked at. `taken` are tasks of the batch's other claims.
    """
    queue, sorts = (claim.namespace_id, claim.task_queue, claim.kind), (claim.types, claim.builds)
    found: list[Found] = []
    for _ in range(_MOST_LOOKS):
        own, left = [*taken, *found], most - len(found)
        lap, is_first = walk.lap, walk.is_first
        tokens, is_last = await _look(connection, claim, walk.turn, ration, left, own)
        shares, turn = share(tokens, ration.weights, walk.turn, left, once=not (is_first and is_last))
        mine = await fair_tasks.claim(connection, queue, *sorts, shares, own) if shares else []
        ration.promise(mine)
        found += [task for _, task in mine]
        if lap is not None:
            _note(lap, tokens, shares, Counter(key for key, _ in mine), ration)
        if sum(shares.values()) == left:
            walk.turn = turn
            if len(found) == most:
                return found, None
        elif not is_last:
            walk.turn = Turn(next(reversed(tokens)), 0)
        elif (over := walk.begin()) is not None and over is lap and over.counts:
            return found, None if over.next_time is None else max(over.next_time, again)
    return found, again


async def _look(  # noqa: PLR0917 - one question
    connection: Connection, claim: Claim, turn: Turn, ration: KeyRationing, most: int, own: Collection[Found]
) -> tuple[dict[str, int], bool]:
    """What the next keys of which something waits have left, the one whose turn it is first; and if they are all."""
    looked = max(_FEWEST_LOOKED, _LOOKED // (len(claim.types) * (len(claim.builds) + 1)))
    queue, sorts = (claim.namespace_id, claim.task_queue, claim.kind), (claim.types, claim.builds)
    place, inclusive = turn.key or "", turn.left > 0 or turn.key is None
    seen = await key_buckets.find_keys(
        connection, queue, *sorts, place, most, looked, own, ration.bounds, inclusive=inclusive
    )
    is_last = not seen or (len(seen) < looked and seen[-1].open < most)
    return {each.key: ration.tokens(each.key, each.spent_until) for each in seen}, is_last


def _note(
    lap: Lap, keys: Collection[str], shares: Mapping[str, int], counts: Mapping[str, int], ration: KeyRationing
) -> None:
    """Keeps when each of these keys gives again, unless nothing more waits of it."""
    for key in keys:
        if counts.get(key, 0) == shares.get(key, 0):
            lap.note(ration.later_time(key))
