"""What one stream of ends was told and what it is still to be told, bounded however slow its reader is."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from stepwell_server.store.job_ends import JobEnd
from stepwell_server.store.watches import End

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_server.dispatch.cursors import Cursor

AnyEnd = End | JobEnd

_MESSAGE_ENDS, _MESSAGE_BYTES = 256, 1024 * 1024
_QUEUE_BYTES = 4 * 1024 * 1024


class Ended(NamedTuple):
    """The ends of one batch that a stream is told of, each with its place among all ends of the batch."""

    committer: int
    position: int
    ends: list[tuple[int, AnyEnd]]

    @property
    def size(self) -> int:
        return 64 + sum(end.size for _, end in self.ends)


class Watched(NamedTuple):
    """What a stream is about: runs or jobs of one namespace."""

    namespace_id: int
    kind: type[AnyEnd]

    def is_told(self, end: AnyEnd) -> bool:
        return end.namespace_id == self.namespace_id and isinstance(end, self.kind)


class Stream:
    """One stream. What it is given goes first through `recalled`, read from the table, then through `queue`."""

    def __init__(self, watched: Watched, cursor: Cursor, most_batches: int) -> None:
        self.watched = watched
        self.seen = cursor
        self.arrived = asyncio.Event()
        self.goal: dict[int, int] | None = None  # how far to read the table; None: the feed is all it needs
        self.attached = False
        self.recalled: deque[Ended] = deque()
        self._queue: deque[Ended] = deque()
        self._bytes = 0
        self._most_batches = most_batches

    def attach(self, positions: dict[int, int]) -> None:
        """Takes from the feed all that comes after these positions; what came before is to be read."""
        self.attached = True
        self.goal = dict(positions)

    def detach(self) -> None:
        """Forgets what was queued: it will be read from the table."""
        self.attached = False
        self._queue.clear()
        self._bytes = 0
        self.arrived.set()

    def offer(self, batch: Ended) -> None:
        """Queues a batch of the feed, or falls behind."""
        if not self.attached or batch.position <= self.seen.positions.get(batch.committer, 0):
            return
        if not batch.ends and not self._queue and self.goal is None:
            self.seen.pass_batch(batch.committer, batch.position)
            return
        self._queue.append(batch)
        self._bytes += batch.size
        if len(self._queue) > self._most_batches or self._bytes > _QUEUE_BYTES:
            self.detach()
        self.arrived.set()

    def take(self) -> list[AnyEnd]:
        """As many ends as one message holds, in order."""
        taken: list[AnyEnd] = []
        size = 0
        while source := self.recalled or (self._queue if self.goal is None else None):
            batch = source[0]
            for place, end in batch.ends:
                if place < self.seen.partial.get(batch.committer, 0):
                    continue
                size += end.size
                if taken and (size > _MESSAGE_BYTES or len(taken) == _MESSAGE_ENDS):
                    self.seen.partial[batch.committer] = place
                    return taken
                taken.append(end)
            self.seen.pass_batch(batch.committer, batch.position)
            source.popleft()
            if source is self._queue:
                self._bytes -= batch.size
        return taken


def told_of(committer: int, position: int, keys: Sequence[int], ends: dict[int, AnyEnd], watched: Watched) -> Ended:
    """What a stream is told of a batch."""
    told = [(place, ends[key]) for place, key in enumerate(keys) if key in ends and watched.is_told(ends[key])]
    return Ended(committer, position, told)
