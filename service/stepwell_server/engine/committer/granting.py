"""The tasks of a batch: found for claims, and given straight to workers that wait for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.engine import rate_limits
from stepwell_server.engine.committer import fair_claiming, limited_claiming
from stepwell_server.engine.committer.claiming import Claiming
from stepwell_server.engine.committer.protocols import ActivityClaim, Capacity, Claim, Queues, Reservation
from stepwell_server.engine.committer.rationing import Rationing, queue_of
from stepwell_server.engine.grants import GrantTask, ref_to
from stepwell_server.model.jobs import JOB_ORDINAL
from stepwell_server.store import batch_reads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from stepwell_server.engine.committer.key_rationing import KeyRationing
    from stepwell_server.engine.committer.orders import AnyClaim, Order
    from stepwell_server.engine.committer.protocols import AnyChange
    from stepwell_server.engine.committer.subjects import Subjects
    from stepwell_server.engine.key_limits import Walk
    from stepwell_server.model.tasks import AnyGrant, Task
    from stepwell_server.store.connection import Connection


class Granting:
    """See the module."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        connection: Connection,
        subjects: Subjects,
        capacity: Capacity,
        now: datetime,
        held: object,
        queues: Queues,
    ) -> None:
        self._connection = connection
        self._now = now
        self._held = held
        self._queues = queues
        self._rationing = Rationing(connection, queues, now)
        self._driven = Claiming(connection, subjects.runs, now, held)
        self._subjects = subjects
        self._capacity = capacity
        self._claimed: dict[int, list[tuple[int, int, datetime]]] = {}
        self._most: dict[int, int] = {}
        # When keys that are out of tokens give more, and how far claims of such queues have looked.
        self._later: dict[int, datetime] = {}
        self._walks: dict[int, Walk] = {}
        # Claims that got all there was and have room for more, each with what it is answered.
        self._unfilled: list[tuple[Claim, list[AnyGrant]]] = []
        self.reservations: list[tuple[Task, Reservation]] = []
        self._stale: list[tuple[int, int]] = []

    async def claim(self, orders: Iterable[tuple[int, Order]]) -> None:
        """Finds tasks for each claim. A transaction does not skip its own locks: what one got, the next leaves."""
        taken: set[tuple[int, int, datetime]] = set()
        driven: list[tuple[int, ActivityClaim]] = []
        claims: list[tuple[int, Claim]] = []
        for place, claim in orders:
            if isinstance(claim, ActivityClaim):
                driven.append((place, claim))
            elif isinstance(claim, Claim):
                claims.append((place, claim))
        await self._rationing.open(claim for _, claim in claims)
        for place, claim in claims:
            if self._rationing.is_held(claim):
                continue
            most = self._most[place] = self._rationing.most(claim)
            mine = await self._find(place, claim, most, taken) if most else []
            taken.update(mine)
            self._claimed[place] = mine
            self._rationing.promise(claim, len(mine))
        await self._driven.claim(driven)

    async def _find(
        self, place: int, claim: Claim, most: int, taken: set[tuple[int, int, datetime]]
    ) -> list[tuple[int, int, datetime]]:
        keys = self._rationing.keys_of(claim)
        if keys is not None:
            return await self._limited(place, claim, keys, most, taken)
        weights = self._queues.weights_of(*queue_of(claim))
        if weights is not None:
            fair = await fair_claiming.find(self._connection, claim, self._queues.rounds, weights, most, taken)
            # What came without a key before the queue was told so is found by its age, when there is room.
            return fair if len(fair) == most else fair + await self._plain(claim, most - len(fair), taken.union(fair))
        return await self._plain(claim, most, taken)

    async def _limited(
        self, place: int, claim: Claim, keys: KeyRationing, most: int, taken: set[tuple[int, int, datetime]]
    ) -> list[tuple[int, int, datetime]]:
        queue, again = (claim.namespace_id, claim.task_queue, claim.kind), rate_limits.soonest(self._now)
        walk = self._walks[place] = self._queues.walks.walk(queue, claim.types, claim.builds)
        found, later = await limited_claiming.find(self._connection, claim, walk, keys, most, taken, again)
        if later is not None:
            self._later[place] = later
        return found

    async def _plain(
        self, claim: Claim, most: int, taken: set[tuple[int, int, datetime]]
    ) -> list[tuple[int, int, datetime]]:
        aging = self._queues.aging_of(*queue_of(claim))
        connection, sorts = self._connection, (claim.types, claim.builds)
        queue, looked = (claim.namespace_id, claim.task_queue, claim.kind), most + len(taken)
        if aging is None:
            found = await batch_reads.claim_tasks(connection, *queue, *sorts, looked, self._now)
        else:
            found = await batch_reads.claim_aging_tasks(connection, *queue, *sorts, looked, aging)
        return [task for task in found if task not in taken][:most]

    @property
    def tasks(self) -> Iterator[tuple[int, int]]:
        """The tasks found for claims, by key and ordinal."""
        for tasks in self._claimed.values():
            for key, ordinal, _ in tasks:
                yield key, ordinal
        yield from self._driven.tasks

    @property
    def stale(self) -> list[tuple[int, int]]:
        """Tasks in the table that nobody can do any more."""
        return self._stale + self._driven.stale

    def granted(self, place: int, claim: AnyClaim) -> object:
        """What a claim gets of the tasks found for it."""
        if isinstance(claim, ActivityClaim):
            return self._driven.granted(place, claim)
        if place not in self._claimed:
            return self._held
        granted: list[AnyGrant] = []
        for key, ordinal, ready_time in self._claimed[place]:
            change = self._subjects.get(key, is_job=ordinal == JOB_ORDINAL)
            if change is None:
                continue
            reservation = Reservation(claim.session_id, claim.owner_id, claim.builds)
            grant = self._grant(change, ordinal, reservation, ready_time)
            if grant is None:
                self._stale.append((key, ordinal))
            else:
                granted.append(grant)
                change.news.withhold(grant)
        if place in self._walks and len(granted) < len(self._claimed[place]):
            self._retry(place)
        if len(self._claimed[place]) < claim.most and not self._queues.is_limited(*queue_of(claim)):
            self._unfilled.append((claim, granted))
        return self._rationing.give(claim, granted, self._most[place], self._later.get(place))

    def _retry(self, place: int) -> None:
        """Keys have tokens left that were meant for tasks which nobody can do any more."""
        self._walks[place].fail()
        self._later[place] = rate_limits.soonest(self._now)

    @property
    def spent(self) -> Sequence[tuple[int, str, datetime]]:
        """Until when the buckets of limited queues are spent, if anything was given out of them."""
        return self._rationing.spent

    @property
    def keys_spent(self) -> Sequence[tuple[int, str, str, datetime, float]]:
        """The same of keys that have a limit each."""
        return self._rationing.keys_spent

    def fail(self) -> None:
        """The batch was not committed, so nothing was given."""
        for walk in self._walks.values():
            walk.fail()

    def match(self) -> None:
        """Gives fresh tasks straight to workers that wait for them.

        A worker for which something older waits gets none, but its claim does that has just found no more: else what
        once waited in the table would lead all that follows through it, for as long as more comes.
        """
        for change in self._subjects.every():
            fresh = change.news.tasks
            if fresh:
                change.news.tasks = [task for task in fresh if not self._is_given(change, task)]

    def _is_given(self, change: AnyChange, task: Task) -> bool:
        """Gives a task straight to a worker, if one has a place for it."""
        if change.tasks.get(task.ordinal) is not task:
            return False
        reservation = self._capacity.reserve(task)
        if reservation is None:
            return self._is_claimed(change, task)
        self.reservations.append((task, reservation))
        if self._grant(change, task.ordinal, reservation) is not None:
            return True
        self._capacity.release(*self.reservations.pop())
        return False

    def _is_claimed(self, change: AnyChange, task: Task) -> bool:
        for claim, granted in self._unfilled:
            if len(granted) == claim.most or not _asks_for(claim, task):
                continue
            grant = self._grant(change, task.ordinal, Reservation(claim.session_id, claim.owner_id, claim.builds))
            if grant is not None:
                granted.append(grant)
                change.news.withhold(grant)
            return grant is not None
        return False

    def _grant(
        self, change: AnyChange, ordinal: int, reservation: Reservation, ready_time: datetime | None = None
    ) -> AnyGrant | None:
        if not change.is_open:
            return None
        ref = ref_to(change.key, ordinal, change.namespace_id)
        change.begin()
        return GrantTask(ref, ordinal, *reservation, ready_time).decide(change)


def _asks_for(claim: Claim, task: Task) -> bool:
    return (
        (claim.namespace_id, claim.task_queue, claim.kind) == (task.namespace_id, task.task_queue, task.kind)
        and task.type in claim.types
        and (not task.build_id or task.build_id in claim.builds)
    )
