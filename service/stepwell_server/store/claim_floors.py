"""From where on claims walk a queue: what stood before is gone.

A row that a claim has deleted stays in the index until nobody's snapshot may need it. While somebody reads for ten
minutes, all that was claimed in that time lies at the head of its queue, and each claim would step over all of it
again. So a connection remembers, for each sort and rank, when the first task became ready that its last claim saw.

A task is ready from the time of the batch that writes it. What is committed behind a floor comes late by more than
`SETTLED`, or from a clock that is behind. Once in every `WHOLE` all of a sort is walked, and that is found.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

Queue = tuple[int, str, int]  # namespace, task queue, kind
Sort = tuple[str, str]  # type, build
SETTLED = timedelta(seconds=1)
"""How long after its time a batch is committed at the latest, as far as floors go."""
WHOLE = timedelta(seconds=5)
"""How often a sort is walked from its beginning."""
_MOST_SORTS = 10_000
_HIGHEST, _LOWEST = 0, 9
_EVER = datetime.min.replace(tzinfo=UTC)


class Walk(NamedTuple):
    """A piece of a sort, along the index: from a rank and time on, to the end of another rank."""

    type: str
    build_id: str
    from_rank: int
    from_time: datetime
    to_rank: int


class Head(NamedTuple):
    """What a claim saw of one sort and rank: how many tasks, and since when the first is ready."""

    type: str
    build_id: str
    rank: int
    seen: int
    ready_time: datetime


class _Known(msgspec.Struct):
    walked_time: datetime  # when all of the sort was walked
    floors: dict[int, datetime]


class Floors:
    """See the module. Of ranks in which a sort has had tasks lately; others are walked from their beginning."""

    def __init__(self) -> None:
        self._known: dict[tuple[Queue, Sort], _Known] = {}

    def walks(self, queue: Queue, sorts: Iterable[Sort], now: datetime) -> list[Walk]:
        """What a claim walks, in the order of rank within each sort."""
        if len(self._known) > _MOST_SORTS:
            self._known.clear()
        return [walk for sort in sorts for walk in self._walks_of(queue, sort, now)]

    def _walks_of(self, queue: Queue, sort: Sort, now: datetime) -> Iterable[Walk]:
        known = self._known.get((queue, sort))
        if known is None or not known.walked_time <= now < known.walked_time + WHOLE:
            known = self._known[queue, sort] = _Known(now, {})
        starts = sorted(known.floors.items())
        if not starts or starts[0][0] > _HIGHEST:
            starts.insert(0, (_HIGHEST, _EVER))
        ends = [rank - 1 for rank, _ in starts[1:]] + [_LOWEST]
        for (rank, time), end in zip(starts, ends, strict=True):
            yield Walk(*sort, rank, time, end)

    def saw(self, queue: Queue, sorts: Iterable[Sort], heads: Iterable[Head], now: datetime, *, is_all: bool) -> None:
        """Notes what a claim saw at a time, `is_all` if that was all there is. What it took may come back."""
        settled = now - SETTLED
        if is_all:
            for sort in sorts:
                floors = self._known[queue, sort].floors
                floors.update(dict.fromkeys(floors, settled))
        for head in heads:
            self._known[queue, head[:2]].floors[head.rank] = min(head.ready_time, settled)
