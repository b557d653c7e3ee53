"""How duties give commands: many at once, each answered for itself, and what fails does not hold up the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import TYPE_CHECKING

from stepwell_server import errors
from stepwell_server.loops.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stepwell_server.clock import Clock
    from stepwell_server.engine.committer import Committers
    from stepwell_server.engine.committer.orders import Order
    from stepwell_server.loops.connection import SharedConnection

SLICE = 256
_FIRST_SECONDS, _LONGEST_SECONDS = 1.0, 60.0


async def submit_all(committers: Committers, orders: Sequence[Order]) -> list[object]:
    """Gives commands and waits for all; a refusal stands as the answer to its command."""
    futures: list[asyncio.Future[object]] = []
    answers: list[object] = []
    try:
        futures.extend(committers.submit(order) for order in orders)
    except errors.QueueFull as full:
        # Callers go first: the rest comes with a later round.
        answers = [full] * (len(orders) - len(futures))
    return [*await asyncio.gather(*futures, return_exceptions=True), *answers]


class Deferred:
    """What could not be done, and is left alone for a while, longer each time."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, tuple[float, float]] = {}

    def __len__(self) -> int:
        """How many are left alone, or were a while ago."""
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        """Whether nothing came of it, lately."""
        return key in self._entries

    def add(self, key: Hashable, now: float) -> None:
        """Leaves it alone."""
        seconds = min(self._entries[key][1] * 2, _LONGEST_SECONDS) if key in self._entries else _FIRST_SECONDS
        self._entries[key] = (now + seconds, seconds)

    def is_left(self, key: Hashable, now: float) -> bool:
        """Whether it is to be left alone now."""
        entry = self._entries.get(key)
        return entry is not None and now < entry[0]

    def forget(self, key: Hashable) -> None:
        """It was done."""
        self._entries.pop(key, None)

    def forget_old(self, now: float) -> None:
        """Forgets what nobody came back to."""
        old = [key for key, (until, _) in self._entries.items() if until + _LONGEST_SECONDS < now]
        for key in old:
            del self._entries[key]


class CommandLoop(Loop):
    """Reads a slice of what waits and gives commands about it; what nothing comes of may be deferred."""

    def __init__(
        self,
        connection: SharedConnection,
        committers: Committers,
        clock: Clock,
        seconds: float,
        may_run: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(seconds, may_run)
        self._connection = connection
        self._committers = committers
        self._clock = clock
        self._deferred = Deferred()
        self._has_more = False

    def pause(self, done: int) -> float:
        """None, if a round could not take all."""
        return 0.0 if self._has_more and done else super().pause(done)
