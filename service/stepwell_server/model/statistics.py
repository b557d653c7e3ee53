"""Numbers about runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import IntEnum

import msgspec

MOST_BUCKETS = 10_000


class Grouping(IntEnum):
    """What runs are counted by; the proto's RunGrouping."""

    PHASE = 1
    TYPE = 2
    TASK_QUEUE = 3
    DEFINITION = 4


class Granularity(IntEnum):
    """How fine a time series is; the proto's RunGranularity."""

    HOUR = 1
    DAY = 2

    @property
    def size(self) -> timedelta:
        """How long a bucket is."""
        return timedelta(hours=1) if self is Granularity.HOUR else timedelta(days=1)

    def floor(self, time: datetime) -> datetime:
        """The beginning of the hour or day, UTC, that a time is in."""
        time = time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        return time if self is Granularity.HOUR else time.replace(hour=0)


class Window(msgspec.Struct, frozen=True):
    """The buckets of a time series: `count` of them from `start` on, and whether there would be more."""

    start: datetime
    end: datetime
    size: timedelta
    count: int
    is_cut: bool


def window(granularity: Granularity, start: datetime, end: datetime) -> Window:
    """The buckets between two times: the first begins with its hour or day, the last ends with `end`."""
    first, size = granularity.floor(start), granularity.size
    count = max(0, -((first - end) // size))
    is_cut = count > MOST_BUCKETS
    count = min(count, MOST_BUCKETS)
    return Window(first, min(end, first + count * size), size, count, is_cut)


class Counted(msgspec.Struct, frozen=True):
    """Groups with their sizes, the largest first, all runs that were counted, and whether runs were left out."""

    groups: list[tuple[str, int]]
    total: int
    is_cut: bool


class Bucket(msgspec.Struct, frozen=True):
    """Runs that were started in one bucket: open ones, ended ones by phase, and how long those took, in ms."""

    running: int = 0
    ended: dict[int, int] = {}
    p50: float | None = None
    p95: float | None = None

    @property
    def total(self) -> int:
        """All of them."""
        return self.running + sum(self.ended.values())


class Dashboard(msgspec.Struct, frozen=True):
    """What is told of a namespace first. `ended` are those of today by phase."""

    definitions: int
    types: int
    open: int
    running: int
    paused: int
    ended: dict[int, int]
    is_cut: bool


class TableGroup(msgspec.Struct, frozen=True):
    """Tables that belong together."""

    name: str
    rows: int
    size: int
    tables: list[str]


class Storage(msgspec.Struct, frozen=True):
    """What a namespace holds, and what all hold together."""

    definitions: int
    runs: int
    open_runs: int
    more_runs: bool
    groups: list[TableGroup]
