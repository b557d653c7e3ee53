"""A bucket of tokens as one time: when it will be full again.

Each token taken puts that time off by the length that one takes to come, from now at the earliest. So the bucket needs
no refilling, and whatever the intervals at which it is asked, in any span of `t` seconds no more than
`per_second * t + burst` are taken out of it.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from stepwell_server.model.queue_settings import RateLimit

_MICROSECOND = timedelta(microseconds=1)
# Of a token: what a division may lose.
_NOISE = 1e-6
_ASKED_SECONDS = 0.01


def tokens(limit: RateLimit, spent_until: datetime | None, now: datetime) -> int:
    """How many are there."""
    return math.floor(limit.burst - _ahead(limit, spent_until, now) * limit.per_second + _NOISE)


def spend(limit: RateLimit, spent_until: datetime | None, now: datetime, count: int) -> datetime:
    """When the bucket is full again after so many were taken, of those that are there."""
    seconds = _ahead(limit, spent_until, now) + count / limit.per_second
    return now + timedelta(microseconds=math.ceil(seconds * 1e6))


def next_time(limit: RateLimit, spent_until: datetime | None, now: datetime, wanted: int = 1) -> datetime:
    """When there are so many tokens; now, if there are."""
    if tokens(limit, spent_until, now) >= wanted:
        return now
    seconds = _ahead(limit, spent_until, now) - (limit.burst - wanted) / limit.per_second
    return now + timedelta(seconds=max(0.0, seconds)) + _MICROSECOND


def later_time(limit: RateLimit, spent_until: datetime | None, now: datetime) -> datetime | None:
    """When there is a token again; None if there is one now."""
    found = next_time(limit, spent_until, now)
    return found if found > now else None


def settled(limit: RateLimit, spent_until: datetime, filled: float, since: datetime) -> datetime:
    """Until when a bucket is spent that was written under a limit by which an empty one `filled` in so many seconds.

    If `limit` fills it sooner, what was taken before is no debt of those who mended it: the bucket counts as emptied
    at the latest when the limit was set, and fills from then on.
    """
    full = limit.fill_seconds
    return min(spent_until, since + timedelta(seconds=full)) if filled > full else spent_until


def worth_asking(limit: RateLimit) -> int:
    """For how many tokens to wait, so that a fast bucket is asked some hundred times a second and not for each."""
    return min(limit.burst, math.ceil(limit.per_second * _ASKED_SECONDS))


def soonest(now: datetime) -> datetime:
    """When whoever has to ask again does so."""
    return now + timedelta(seconds=_ASKED_SECONDS)


def _ahead(limit: RateLimit, spent_until: datetime | None, now: datetime) -> float:
    """In how many seconds it is full. Never longer than an empty one takes: the limit may have been another then."""
    if spent_until is None:
        return 0.0
    return min(max(0.0, (spent_until - now).total_seconds()), limit.fill_seconds)
