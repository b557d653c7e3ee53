"""Whose turn it is in a queue whose keys have a limit each: turns as in `fairness`, among the keys that have a token.

A claim looks at a bounded number of keys. Where more wait than that, it goes on where the last one of its sort ended.
Only a **lap**, from the first key to the last one, tells that all are out of tokens, and when the first has one again.
It counts for nothing if something has come meanwhile, for that may be of a key which was passed already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.engine.fairness import DEFAULT_WEIGHT, Turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

_MOST_WALKS = 1_000
Place = tuple[int, str, int]
"""A namespace, a queue, and a kind of tasks."""


def share(
    tokens: Mapping[str, int], weights: Mapping[str, int], turn: Turn, most: int, *, once: bool
) -> tuple[dict[str, int], Turn]:
    """How many of `most` tasks each key gets of those that it has tokens for, and whose turn it is then.

    `tokens` begin with the key whose turn it is. With `once` each has one turn, else as many as it takes.
    """
    shares: dict[str, int] = {}
    left = most
    waiting = [key for key in tokens if tokens[key] > 0]
    while left and waiting:
        for key in waiting:
            quota = turn.left if turn.left and key == turn.key else weights.get(key, DEFAULT_WEIGHT)
            count = min(quota, left, tokens[key] - shares.get(key, 0))
            shares[key] = shares.get(key, 0) + count
            turn = Turn(key, quota - count if shares[key] < tokens[key] else 0)
            left -= count
            if not left:
                break
        waiting = [] if once else [key for key in waiting if shares.get(key, 0) < tokens[key]]
    return shares, turn


class Lap:
    """What a look at all keys has found so far: one that has more to give, or when the first one has."""

    def __init__(self) -> None:
        self.next_time: datetime | None = None
        self.counts = True

    def note(self, later: datetime | None) -> None:
        """A key has a token then; None: it has one now."""
        if later is None:
            self.counts = False
        elif self.next_time is None or later < self.next_time:
            self.next_time = later


class Walk:
    """Where the claims of one sort stand in their queue. `lap` is None if it did not begin with the first key."""

    def __init__(self) -> None:
        self.turn = Turn()
        self.lap: Lap | None = Lap()

    @property
    def is_first(self) -> bool:
        """Whether it is at the first key."""
        return self.turn.key is None

    def begin(self) -> Lap | None:
        """Begins anew; answers the lap that is over."""
        over, self.turn, self.lap = self.lap, Turn(), Lap()
        return over

    def fail(self) -> None:
        """What it found was not given: nothing that the lap has noted is true."""
        self.lap = None


class Walks:
    """The walks of one replica's claims. One that is forgotten begins anew, which costs time only."""

    def __init__(self) -> None:
        self._walks: dict[Place, dict[object, Walk]] = {}
        self._count = 0

    def walk(self, place: Place, types: Iterable[str], builds: Iterable[str]) -> Walk:
        """That of claims of these types and builds."""
        sort = frozenset(types), frozenset(builds)
        found = self._walks.get(place, {}).get(sort)
        if found is None:
            if self._count >= _MOST_WALKS:
                self.clear()
            self._count += 1
            found = self._walks.setdefault(place, {})[sort] = Walk()
        return found

    def disturb(self, places: Iterable[Place]) -> None:
        """Something has come to wait there."""
        if not self._walks:
            return
        for place in places:
            for walk in self._walks.get(place, {}).values():
                if walk.lap is not None:
                    walk.lap.counts = False

    def clear(self) -> None:
        """All begin anew."""
        self._walks.clear()
        self._count = 0
