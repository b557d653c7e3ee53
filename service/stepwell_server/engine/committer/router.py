"""Spreads commands over committers: starts by workflow id, commands by run."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, TypeVar

from stepwell_server.engine.committer.committer import Committer
from stepwell_server.engine.committer.protocols import Claim
from stepwell_server.engine.signal_with_start import SignalWithStartRun
from stepwell_server.engine.starts import StartRun

if TYPE_CHECKING:
    from stepwell_server.clock import Clock
    from stepwell_server.engine.committer.orders import Order
    from stepwell_server.engine.committer.protocols import Capacity, Listener
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database

Answer = TypeVar("Answer")
_turns = itertools.count()


class Committers:
    """All committers of this replica, as one."""

    def __init__(
        self, database: Database, clock: Clock, settings: Settings, capacity: Capacity, listener: Listener
    ) -> None:
        self.members = [Committer(database, clock, settings, capacity, listener) for _ in range(settings.committers)]

    async def start(self) -> None:
        """Starts each."""
        await asyncio.gather(*(member.start() for member in self.members))

    async def stop(self) -> None:
        """Lets each finish what waits."""
        await asyncio.gather(*(member.stop() for member in self.members))

    def submit(self, order: Order, size: int = 0, seconds: float = 30.0) -> asyncio.Future[object]:
        """Queues a command; see `Committer.submit`."""
        return self._member(order).submit(order, size, seconds)

    async def do(self, kind: type[Answer], order: Order, size: int = 0, seconds: float = 30.0) -> Answer:
        """Queues a command, waits for its answer, and says of what type that is."""
        answer = await self.submit(order, size, seconds)
        if not isinstance(answer, kind):
            raise TypeError(f"{type(order).__name__} was answered with {type(answer).__name__}")
        return answer

    def post(self, orders: list[Order]) -> None:
        """Queues mail; see `Committer.post`."""
        for order in orders:
            self._member(order).post([order])

    def _member(self, order: Order) -> Committer:
        if len(self.members) == 1:
            return self.members[0]
        return self.members[_place(order) % len(self.members)]


def _place(order: Order) -> int:
    if isinstance(order, SignalWithStartRun):
        return _place(order.start)
    if isinstance(order, StartRun):
        return hash((order.new.namespace_id, order.new.workflow_id or order.new.run_id or next(_turns)))
    if isinstance(order, Claim):
        return hash((order.namespace_id, order.task_queue))
    return order.ref.run_key if order.ref.run_key is not None else hash(order.ref.label)
