"""Brings what programs asked for in their own transactions to the committers, in its order.

The leader reads what is committed by number. Of one transaction, and of one session, numbers tell the order; of
several, the one that is committed late comes late, and holds up nobody. Each row becomes an ordinary command, and goes
in the transaction that does it: whoever else gives the same command finds the row gone. Commands of one run are decided
in the order in which they are given, here as everywhere, and they have no deadline, so that none overtakes another.

What is refused for good goes to the dead letters with the reason. What is refused in passing stays. So does what is
refused to a run whose start is in the same round: a replica that led before may have done the start meanwhile, and it
was looked for too early. The next round knows.
"""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import TYPE_CHECKING

from stepwell_server import errors, refusals
from stepwell_server.engine.inbox import order_of
from stepwell_server.loops.loop import Loop
from stepwell_server.loops.orders import SLICE, CommandLoop
from stepwell_server.model.inbox import Verb
from stepwell_server.store import inbox
from stepwell_server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stepwell_server.clock import Clock
    from stepwell_server.loops.connection import SharedConnection
    from stepwell_server.model.inbox import InboxRow

_OVERHEAD = 512
_PRUNED_AT_ONCE = 2_000
_BRISK_SECONDS = 0.02
_BRISK_ROUNDS = 50
_PASSING = frozenset({refusals.Code.UNAVAILABLE, refusals.Code.ABORTED})


class Inbox(CommandLoop):
    """See the module."""

    name = "inbox"

    _brisk = 0

    def pause(self, done: int) -> float:
        """None after a full slice; short for a while after something came: more may follow."""
        if done >= SLICE:
            return 0.0
        self._brisk = _BRISK_ROUNDS if done else max(0, self._brisk - 1)
        return min(_BRISK_SECONDS, self._seconds) if self._brisk else super().pause(done)

    async def run_once(self) -> int:
        """Brings a slice and waits for all answers: nothing is brought twice. Answers how much was dealt with."""
        async with self._connection.use() as connection:
            rows = await inbox.read(connection, 0, SLICE)
        if rows:
            metrics.observe_lateness(self.name, (self._clock.now() - rows[0].append_time).total_seconds())
        answers = await self._bring(rows)
        dead = list(_dead(rows, answers))
        if dead:
            async with self._connection.use() as connection:
                await inbox.bury(connection, dead, self._clock.now())
        return len(dead) + sum(not isinstance(answer, BaseException) for answer in answers)

    async def _bring(self, rows: Sequence[InboxRow]) -> list[object]:
        """Gives commands, in their order, as long as they are taken."""
        futures: list[asyncio.Future[object]] = []
        for row in rows:
            size = len(row.payload or b"") + _OVERHEAD
            try:
                futures.append(self._committers.submit(order_of(row), size, math.inf, inbox=row.number))
            except errors.QueueFull:
                # Callers go first.
                break
        return await asyncio.gather(*futures, return_exceptions=True)


def _dead(rows: Sequence[InboxRow], answers: Sequence[object]) -> Iterator[tuple[int, str, str]]:
    """What is refused for good, by number, with reason and message."""
    unsure: set[object] = set()
    for row, answer in zip(rows, answers, strict=False):
        names = _names_of(row)
        if isinstance(answer, refusals.Refusal) and not is_passing(answer):
            if unsure.isdisjoint(names):
                yield row.number, answer.reason, answer.message
        elif row.verb == Verb.START or isinstance(answer, BaseException):
            unsure |= names


def _names_of(row: InboxRow) -> set[object]:
    """Under which its run is known: an id, a name in a namespace, or both."""
    named: set[object] = {(row.namespace_id, row.workflow_id)} if row.workflow_id else set()
    return named if row.run_id is None else {row.run_id, *named}


def is_passing(refusal: refusals.Refusal) -> bool:
    """Whether the same may be accepted later."""
    return refusal.code in _PASSING or isinstance(refusal, errors.QueueFull)


class DeadLetters(Loop):
    """Forgets dead letters whose time is over."""

    name = "dead letters"

    def __init__(
        self,
        connection: SharedConnection,
        clock: Clock,
        seconds: float,
        kept_seconds: float,
        may_run: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(seconds, may_run)
        self._connection = connection
        self._clock = clock
        self._kept = timedelta(seconds=kept_seconds)

    async def run_once(self) -> int:
        """Forgets a slice."""
        async with self._connection.use() as connection:
            return await inbox.prune(connection, self._clock.now() - self._kept, _PRUNED_AT_ONCE)

    def pause(self, done: int) -> float:
        """None while there is more."""
        return 0.0 if done == _PRUNED_AT_ONCE else super().pause(done)
