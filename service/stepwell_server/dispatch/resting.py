"""What gives nothing for now because of a rate limit, and until when.

A queue whose own limit is reached rests as a whole, whatever comes. Where keys have a limit each, those sorts rest of
which every key that waits is out of tokens; what comes anew may be of another key, and is looked at in a moment.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from stepwell_server.engine.rate_limits import soonest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from stepwell_server.clock import Clock
    from stepwell_server.model.workers import Sort

Queue = tuple[int, str]
Key = tuple[int, str, int, str, str]  # namespace, queue, kind, type, build


class Resting:
    """See the module. Times are the service's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queues: dict[Queue, datetime] = {}
        self._sorts: dict[Key, datetime] = {}

    def __bool__(self) -> bool:
        return bool(self._queues or self._sorts)

    def clear(self) -> None:
        """Nothing rests."""
        self._queues.clear()
        self._sorts.clear()

    def rest(self, queue: Queue, until: datetime) -> None:
        """A queue gives nothing until then."""
        self._queues[queue] = until

    def rest_sorts(self, keys: Iterable[Key], until: datetime) -> None:
        """These sorts give nothing until then, of what waits now."""
        for key in keys:
            self._sorts[key] = until

    def disturb(self, keys: Iterable[Key]) -> None:
        """More waits of these sorts: they are looked at soon, and not once for each task that comes."""
        if not self._sorts:
            return
        soon = soonest(self._clock.now())
        for key in keys:
            until = self._sorts.get(key)
            if until is not None and until > soon:
                self._sorts[key] = soon

    def seconds(self) -> float:
        """In how long the next of them gives something."""
        if not self:
            return math.inf
        first = min((*self._queues.values(), *self._sorts.values()))
        return max(0.0, (first - self._clock.now()).total_seconds())

    def look(self) -> None:
        """Forgets those that have rested."""
        if self:
            now = self._clock.now()
            self._queues = {queue: until for queue, until in self._queues.items() if until > now}
            self._sorts = {key: until for key, until in self._sorts.items() if until > now}

    def is_resting(self, queue: Queue) -> bool:
        """Whether a queue rests as a whole."""
        return queue in self._queues

    def awake(self, place: tuple[int, str, int], sorts: frozenset[Sort]) -> frozenset[Sort]:
        """Those of a queue's sorts that do not rest."""
        if not self._sorts:
            return sorts
        return frozenset(sort for sort in sorts if (*place, *sort) not in self._sorts)
