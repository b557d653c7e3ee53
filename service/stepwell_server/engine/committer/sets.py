"""Writes that happen together or not at all, each such set in a transaction of its own.

The committer of sets takes one after another. It locks their runs in the order of their keys and waits for each: two
sets over the same runs follow one another, and one that meets a busy run gets its turn. Other committers never wait for
a run, so nobody waits in a ring. What the set comes to is decided as in any batch, by the same functions, one write
after another; the first that is refused leaves nothing of it. A set that did not get what it needs stands aside for a
moment, and others go on.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from stepwell_server import errors, refusals
from stepwell_server.engine.committer.batch import Batch
from stepwell_server.engine.committer.committer import Committer
from stepwell_server.engine.committer.keeping import Keeping
from stepwell_server.engine.committer.opening import HELD
from stepwell_server.engine.committer.orders import Writes, ref_of
from stepwell_server.engine.committer.protocols import NoCapacity
from stepwell_server.engine.committer.subjects import Subjects
from stepwell_server.engine.committer.waiting import Entry
from stepwell_server.store import batch_reads
from stepwell_server.store.faults import Conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from stepwell_server.clock import Clock
    from stepwell_server.engine.committer.orders import AnyRef, Order
    from stepwell_server.engine.committer.protocols import Capacity, Listener, Queues
    from stepwell_server.engine.limits import Limits
    from stepwell_server.model.requests import Asked
    from stepwell_server.settings import Settings
    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database


class SetBatch(Batch):
    """One set: its writes are the batch's commands, and its answer is the only one."""

    _is_in_turn = True

    def __init__(  # noqa: PLR0917 - a batch is made in one place
        self,
        connection: Connection,
        entry: Entry,
        now: datetime,
        limits: Limits,
        capacity: Capacity,
        next_key: Callable[[], int],
        most_runs: int,
        queues: Queues,
    ) -> None:
        if not isinstance(entry.order, Writes):
            raise TypeError(type(entry.order).__name__)
        self._writes = entry.order
        self._entry = entry
        self._most_runs = most_runs
        members = [Entry(order, None, 0, entry.deadline) for order in self._writes.orders]
        super().__init__(connection, members, now, limits, capacity, next_key, queues=queues)
        self._nothing = Subjects(connection, now, limits, next_key)

    async def prepare(self) -> None:
        """Finds the set's answer: the tuple of its writes' answers, a refusal, or HELD."""
        (answer,) = await self._requests.recall([self._entry])
        if answer is None:
            await self._await_runs()
            await self._decide(await self._load())
            answer = self._outcome()
            if isinstance(answer, tuple):
                self._grants.match()
                self._requests.note(self._entry.asked, answer)
            else:
                # Nothing of it is written or told.
                self.subjects = self._nothing
        self.answers = [answer]

    async def _await_runs(self) -> None:
        """Locks the runs that the writes name. Raises Conflict if that takes too long."""
        refs: dict[int, AnyRef] = {}
        for place, order in enumerate(self._writes.orders):
            ref = ref_of(order)
            if ref is not None:
                refs[place] = ref
        found = (await self.subjects.resolve(refs)).values() if refs else ()
        keys = sorted({key for key in found if isinstance(key, int)})
        if keys:
            await batch_reads.await_runs(self._connection, keys)

    def _outcome(self) -> object:
        """What the writes came to together. The first that is refused tells why."""
        for place, answer in enumerate(self.answers):
            if answer is HELD:
                return HELD
            if isinstance(answer, refusals.Refusal):
                return errors.placed(answer, self._writes.labels[place])
        touched = len(self.subjects.runs)
        if touched > self._most_runs:
            return errors.LimitExceeded(limit="set_runs", value=touched, maximum=self._most_runs)
        return tuple(self.answers)


class SetCommitter(Committer):
    """The committer of sets; see the module. It connects when the first comes."""

    _most_conflicts = 0

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        database: Database,
        clock: Clock,
        settings: Settings,
        capacity: Capacity,
        listener: Listener,
        of_run: Callable[[int], Committer],
        queues: Queues,
    ) -> None:
        # Runs that it starts may be any committer's, and so may their keys.
        super().__init__(database, clock, settings, capacity, listener, 0, 1, of_run, queues)
        self._batch_commands = 1
        self._keeping = Keeping(NoCapacity())  # a set locks what it names: nothing is kept for it
        self._numbers = itertools.count(1)

    def submit(
        self,
        order: Order,
        size: int = 0,
        seconds: float = 30.0,
        asked: Asked | None = None,
        inbox: int | None = None,
    ) -> asyncio.Future[object]:
        """Queues a set."""
        answer = super().submit(order, size, seconds, asked, inbox)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="set committer")
        return answer

    def post(self, orders: Sequence[Order]) -> None:
        """Hands mail to those whose runs it is for."""
        for order in orders:
            ref = ref_of(order)
            if ref is not None and ref.key is not None:
                self._of_run(ref.key).post([order])

    def _batch(self, connection: Connection, entries: Sequence[Entry]) -> SetBatch:
        (entry,) = entries
        # Each stands aside by itself.
        entry.key = entry.key or -next(self._numbers)
        most_runs = self._settings.limits.set_runs
        return SetBatch(
            connection,
            entry,
            self._clock.now(),
            self._limits,
            self._capacity,
            self._link.next_key,
            most_runs,
            self._queues,
        )

    async def _halve(self, entries: list[Entry], cause: Exception) -> None:
        """A set can't be halved. Somebody was in its way: it comes again, as long as it has time."""
        if isinstance(cause, Conflict):
            self._set_aside(entries[0])
        else:
            await super()._halve(entries, cause)
