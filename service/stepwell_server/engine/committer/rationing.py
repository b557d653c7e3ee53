"""What limited queues give within a batch: their buckets, locked once, and what claims took out of them.

A bucket that another batch has is not waited for, since other people's commands stand in this one: the claim comes
again in a moment. What is granted is taken out in the same transaction, so a batch that fails takes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.engine import rate_limits
from stepwell_server.engine.committer.key_rationing import KeyRationing
from stepwell_server.engine.committer.protocols import Claim, Rationed
from stepwell_server.store import queue_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from stepwell_server.engine.committer.protocols import Queues
    from stepwell_server.model.queue_settings import RateLimit
    from stepwell_server.model.tasks import AnyGrant
    from stepwell_server.store.connection import Connection

Queue = tuple[int, str]


class _Bucket:
    """One queue's, as this batch leaves it. `promised` are the tasks found for claims, whatever becomes of them."""

    def __init__(self, limit: RateLimit, spent_until: datetime | None) -> None:
        self.limit = limit
        self.spent_until = spent_until
        self.promised = 0
        self.given = 0


class Rationing:
    """See the module."""

    def __init__(self, connection: Connection, queues: Queues, now: datetime) -> None:
        self._connection = connection
        self._queues = queues
        self._now = now
        self._buckets: dict[Queue, _Bucket | None] = {}
        self._keys: dict[Queue, KeyRationing] = {}
        self._held: set[Queue] = set()

    async def open(self, claims: Iterable[Claim]) -> None:
        """Locks the buckets of those queues that are limited, as far as this replica knows."""
        named = {queue_of(claim) for claim in claims}
        wanted = sorted(queue for queue in named if self._queues.is_limited(*queue))
        if not wanted:
            return
        self._held = set(wanted)
        for row in await queue_settings.lock(self._connection, wanted):
            queue = (row.namespace_id, row.task_queue)
            self._held.discard(queue)
            self._buckets[queue] = _Bucket(row.rate_limit, row.spent_until) if row.rate_limit is not None else None
            if row.key_rate_limit is not None:
                self._keys[queue] = KeyRationing(row, row.key_rate_limit, self._now)

    def is_held(self, claim: Claim) -> bool:
        """Whether another batch has the bucket."""
        return bool(self._held) and queue_of(claim) in self._held

    def keys_of(self, claim: Claim) -> KeyRationing | None:
        """The buckets of its queue's keys, if those have a limit."""
        return self._keys.get(queue_of(claim)) if self._keys else None

    def most(self, claim: Claim) -> int:
        """How many tasks may be looked for."""
        bucket = self._buckets.get(queue_of(claim)) if self._buckets else None
        if bucket is None:
            return claim.most
        there = rate_limits.tokens(bucket.limit, bucket.spent_until, self._now)
        return max(0, min(claim.most, there - bucket.promised))

    def promise(self, claim: Claim, count: int) -> None:
        """So many tasks were found for a claim."""
        bucket = self._buckets.get(queue_of(claim)) if self._buckets else None
        if bucket is not None:
            bucket.promised += count

    def give(self, claim: Claim, grants: list[AnyGrant], most: int, later: datetime | None) -> list[AnyGrant]:
        """What a claim gets, of at most so many. If there might be more but for a limit, it hears when.

        `later` is when keys give more that have none left.
        """
        keys = self.keys_of(claim)
        if keys is not None:
            keys.give(grants)
        rationed = self._give(claim, grants, most)
        return Rationed(grants, later, of_keys=True) if later is not None and rationed is grants else rationed

    def _give(self, claim: Claim, grants: list[AnyGrant], most: int) -> list[AnyGrant]:
        bucket = self._buckets.get(queue_of(claim)) if self._buckets else None
        if bucket is None:
            return grants
        bucket.given += len(grants)
        if len(grants) < most or most == claim.most:
            return grants
        spent_until = bucket.spent_until
        if bucket.promised:
            spent_until = rate_limits.spend(bucket.limit, spent_until, self._now, bucket.promised)
        wanted = rate_limits.worth_asking(bucket.limit)
        return Rationed(grants, rate_limits.next_time(bucket.limit, spent_until, self._now, wanted))

    @property
    def spent(self) -> Sequence[tuple[int, str, datetime]]:
        """Until when the buckets are spent out of which something was given."""
        return [
            (*queue, rate_limits.spend(bucket.limit, bucket.spent_until, self._now, bucket.given))
            for queue, bucket in self._buckets.items()
            if bucket is not None and bucket.given
        ]

    @property
    def keys_spent(self) -> Sequence[tuple[int, str, str, datetime, float]]:
        """The same of keys, and in how many seconds an empty one fills."""
        return [spent for keys in self._keys.values() for spent in keys.spent]


def queue_of(claim: Claim) -> Queue:
    """The queue that a claim asks."""
    return claim.namespace_id, claim.task_queue
