"""What is set for a task queue. Field order is column order."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

_decoder = msgspec.json.Decoder(dict[str, int])


def pack_weights(weights: Mapping[str, int]) -> str:
    """Weights as they are stored."""
    return msgspec.json.encode(dict(weights)).decode()


class RateLimit(msgspec.Struct, frozen=True, gc=False):
    """How many tasks a queue gives, or a key: so many a second in the long run, and so many at once after a rest."""

    per_second: float
    burst: int

    @property
    def fill_seconds(self) -> float:
        """In how many seconds an empty bucket is full."""
        return self.burst / self.per_second


class QueueSettings(msgspec.Struct, frozen=True, gc=False):
    """A row of `queue_settings`. `spent_until` is when the bucket of the limit is full again; None: it is full."""

    namespace_id: int
    task_queue: str
    version: int
    update_time: datetime
    rate_per_second: float | None = None
    rate_burst: int | None = None
    spent_until: datetime | None = None
    aging_seconds: float | None = None
    fairness_weights: str | None = None
    key_rate_per_second: float | None = None
    key_rate_burst: int | None = None

    @property
    def weights(self) -> dict[str, int] | None:
        """What keys weigh, where they take turns."""
        return None if self.fairness_weights is None else _decoder.decode(self.fairness_weights)

    @property
    def rate_limit(self) -> RateLimit | None:
        """The limit, if there is one."""
        if self.rate_per_second is None or self.rate_burst is None:
            return None
        return RateLimit(self.rate_per_second, self.rate_burst)

    @property
    def key_rate_limit(self) -> RateLimit | None:
        """The limit of each key, if there is one. Without turns there is none: an older server may have taken them."""
        if self.key_rate_per_second is None or self.key_rate_burst is None or self.fairness_weights is None:
            return None
        return RateLimit(self.key_rate_per_second, self.key_rate_burst)

    @property
    def is_limited(self) -> bool:
        """Whether there is a bucket out of which its tasks are given."""
        return self.rate_burst is not None or self.key_rate_limit is not None
