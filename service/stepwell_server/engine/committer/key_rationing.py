"""What the keys of a limited queue give within a batch, which has the lock of the queue's row and so of all of them."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

from stepwell_server.engine import rate_limits
from stepwell_server.store.key_buckets import Bounds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from stepwell_server.model.queue_settings import QueueSettings, RateLimit
    from stepwell_server.model.tasks import AnyGrant
    from stepwell_server.store.fair_tasks import Found


class KeyRationing:
    """The buckets of one queue's keys, as this batch leaves them."""

    def __init__(self, row: QueueSettings, limit: RateLimit, now: datetime) -> None:
        self.weights = row.weights or {}
        self._queue = row.namespace_id, row.task_queue
        self._limit = limit
        self._now = now
        self._since = row.update_time
        self._spent_until: dict[str, datetime | None] = {}
        # Tasks found for claims, whatever becomes of them, and those that were given.
        self._promised: Counter[str] = Counter()
        self._given: Counter[str] = Counter()
        self._keys: dict[tuple[int, int], str] = {}

    @property
    def bounds(self) -> Bounds:
        """Which of its buckets have a token."""
        limit, full = self._limit, self._limit.fill_seconds
        open_until = self._now + timedelta(seconds=(limit.burst - 1) / limit.per_second)
        return Bounds(open_until, full, self._since + timedelta(seconds=full))

    def tokens(self, key: str, spent_until: datetime | None) -> int:
        """How many a key has left, whose bucket is spent so."""
        self._spent_until[key] = spent_until
        return rate_limits.tokens(self._limit, spent_until, self._now) - self._promised[key]

    def promise(self, found: Iterable[tuple[str, Found]]) -> None:
        """These tasks were found for a claim."""
        for key, task in found:
            self._promised[key] += 1
            self._keys[task[0], task[1]] = key

    def later_time(self, key: str) -> datetime | None:
        """When a key has tokens again that are worth asking for; None if it has some now."""
        spent_until = self._spend(key, self._promised[key])
        if rate_limits.tokens(self._limit, spent_until, self._now) > 0:
            return None
        wanted = rate_limits.worth_asking(self._limit)
        return rate_limits.next_time(self._limit, spent_until, self._now, wanted)

    def give(self, grants: Iterable[AnyGrant]) -> None:
        """These were given."""
        self._given.update(self._keys[grant.key] for grant in grants)

    @property
    def spent(self) -> Sequence[tuple[int, str, str, datetime, float]]:
        """Until when the buckets are spent out of which something was given, and in how many seconds one fills."""
        full = self._limit.fill_seconds
        return [
            (*self._queue, key, until, full)
            for key, count in self._given.items()
            if (until := self._spend(key, count)) is not None
        ]

    def _spend(self, key: str, count: int) -> datetime | None:
        spent_until = self._spent_until[key]
        return rate_limits.spend(self._limit, spent_until, self._now, count) if count else spent_until
