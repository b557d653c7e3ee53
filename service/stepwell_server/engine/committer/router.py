"""Spreads commands over committers, so that those of one run or job meet at one, in the order of their arrival.

A run's committer is told by its key, and a new run gets a key that tells the committer which started it. Starts go by
workflow id, and so do commands that name a run by it; without one, by run id. A committer that finds out that a run is
another's hands its commands over, in their order. The same name leads to the same place on every replica. Jobs are
spread alike: their starts by unique key, else by job id.

A caller that names one run in two ways without waiting for an answer has no order between the two. Claims go by queue.
"""

from __future__ import annotations

import asyncio
import itertools
import zlib
from typing import TYPE_CHECKING, TypeVar

from stepwell_server.engine.committer.committer import Committer
from stepwell_server.engine.committer.orders import AnyClaim, ref_of, start_of
from stepwell_server.engine.committer.protocols import NoQueues
from stepwell_server.engine.committer.sets import SetCommitter
from stepwell_server.engine.jobs import StartJob
from stepwell_server.model.runs import RunRef

if TYPE_CHECKING:
    from uuid import UUID

    from stepwell_server.clock import Clock
    from stepwell_server.engine.committer.orders import Order, Writes
    from stepwell_server.engine.committer.protocols import Capacity, Listener, Queues
    from stepwell_server.model.requests import Asked
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database

Answer = TypeVar("Answer")
_turns = itertools.count()


class Committers:
    """All committers of this replica, as one."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        database: Database,
        clock: Clock,
        settings: Settings,
        capacity: Capacity,
        listener: Listener,
        queues: Queues | None = None,
    ) -> None:
        queues = queues or NoQueues()
        self.members = [
            Committer(database, clock, settings, capacity, listener, place, settings.committers, self._of_run, queues)
            for place in range(settings.committers)
        ]
        self._sets = SetCommitter(database, clock, settings, capacity, listener, self._of_run, queues)
        # Ids that starts under way have given, which lead elsewhere than their workflow ids or unique keys.
        self._starting: dict[UUID, int] = {}

    async def start(self) -> None:
        """Starts each."""
        await asyncio.gather(*(member.start() for member in self.members))

    async def stop(self) -> None:
        """Lets each finish what waits."""
        await asyncio.gather(*(member.stop() for member in (*self.members, self._sets)))

    def submit(
        self,
        order: Order,
        size: int = 0,
        seconds: float = 30.0,
        asked: Asked | None = None,
        inbox: int | None = None,
    ) -> asyncio.Future[object]:
        """Queues a command; see `Committer.submit`."""
        if len(self.members) == 1:
            return self.members[0].submit(order, size, seconds, asked, inbox)
        place = self._place(order)
        answer = self.members[place].submit(order, size, seconds, asked, inbox)
        name, given = _named(order)
        if name and given is not None:
            self._note(given, place, answer)
        return answer

    async def do(
        self, kind: type[Answer], order: Order, size: int = 0, seconds: float = 30.0, asked: Asked | None = None
    ) -> Answer:
        """Queues a command, waits for its answer, and says of what type that is."""
        answer = await self.submit(order, size, seconds, asked)
        if not isinstance(answer, kind):
            raise TypeError(f"{type(order).__name__} was answered with {type(answer).__name__}")
        return answer

    async def commit(
        self, writes: Writes, size: int = 0, seconds: float = 30.0, asked: Asked | None = None
    ) -> tuple[object, ...]:
        """Writes a set of commands, all or none, and answers what each came to."""
        answers = await self._sets.submit(writes, size, seconds, asked)
        if not isinstance(answers, tuple):
            raise TypeError(f"a set was answered with {type(answers).__name__}")
        return answers

    @property
    def waiting(self) -> int:
        """How many commands wait."""
        return sum(member.waiting for member in (*self.members, self._sets))

    def post(self, orders: list[Order]) -> None:
        """Queues mail; see `Committer.post`."""
        for order in orders:
            self.members[self._place(order)].post([order])

    def _of_run(self, run_key: int) -> Committer:
        return self.members[run_key % len(self.members)]

    def _note(self, given: UUID, place: int, answer: asyncio.Future[object]) -> None:
        """Commands by this id follow the start until it is answered; from then on the run or job is found."""
        self._starting[given] = place
        answer.add_done_callback(lambda _: self._starting.pop(given, None))

    def _place(self, order: Order) -> int:
        count = len(self.members)
        if isinstance(order, AnyClaim):
            return hash((order.namespace_id, order.task_queue)) % count
        ref = ref_of(order)
        if ref is not None and ref.key is not None:
            return ref.key % count
        name, given = _named(order)
        place = self._starting.get(given) if ref is not None and given is not None else None
        return _place_of_name(name, given) % count if place is None else place


def _named(order: Order) -> tuple[str, UUID | None]:
    """The name and the id that a command gives to what it starts, or by which it names what there is."""
    if isinstance(order, StartJob):
        return order.new.unique_key, order.new.job_id
    start, ref = start_of(order), ref_of(order)
    if start is not None:
        return start.new.workflow_id, start.new.run_id
    if isinstance(ref, RunRef):
        return ("", ref.run_id) if ref.run_id is not None else (ref.workflow_id, None)
    return "", ref.job_id if ref is not None else None


def _place_of_name(name: str, given: UUID | None) -> int:
    if name:
        return zlib.crc32(name.encode(errors="replace"))
    return given.int if given is not None else next(_turns)
