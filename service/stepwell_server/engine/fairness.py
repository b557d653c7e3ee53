"""Whose turn it is, in a queue where keys take turns: weighted round robin over the keys of which something waits.

Each turn a key gets as many tasks as it weighs, and then the next one has its turn, in the order of the keys and round
again. So a key gets its share of what is given whatever waits of others, and one that comes anew waits for one round.
All that is remembered is the turn; weights may change at any time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_WEIGHT = 1


class Turn(NamedTuple):
    """Up to which key the round has come, and how many tasks more that key may have before the next one's turn.

    None: it begins with the first. The empty key is one like all others.
    """

    key: str | None = None
    left: int = 0


def share(keys: Sequence[str], weights: Mapping[str, int], turn: Turn, most: int) -> tuple[dict[str, int], Turn]:
    """How many of `most` tasks each key gets, and whose turn it is then.

    `keys` begin with the one whose turn it is: that of `turn` while some is left to it, else the first after it. If
    there are fewer than `most`, they are all there are, and several rounds are shared out.
    """
    shares: dict[str, int] = {}
    left = most
    while left and keys:
        for key in keys:
            quota = turn.left if turn.left and key == turn.key else weights.get(key, DEFAULT_WEIGHT)
            count = min(quota, left)
            shares[key] = shares.get(key, 0) + count
            turn = Turn(key, quota - count)
            left -= count
            if not left:
                break
    return shares, turn


class Rounds:
    """The turns of one replica's queues. Each replica goes its own round, so the shares are those of all together."""

    def __init__(self) -> None:
        self._turns: dict[tuple[int, str, int], Turn] = {}

    def turn(self, namespace_id: int, task_queue: str, kind: int) -> Turn:
        """Whose turn it is among a queue's tasks of a kind."""
        return self._turns.get((namespace_id, task_queue, kind), Turn())

    def note(self, namespace_id: int, task_queue: str, kind: int, turn: Turn) -> None:
        """Keeps whose turn it is."""
        self._turns[namespace_id, task_queue, kind] = turn

    def keep(self, queues: set[tuple[int, str]]) -> None:
        """Forgets all other queues."""
        self._turns = {place: turn for place, turn in self._turns.items() if place[:2] in queues}
