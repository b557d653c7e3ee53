"""What one watch was told and what it is still to be told, bounded however slow its reader is."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from stepwell_server.ids import ANY_ID, IdEnding
from stepwell_server.model.notices import RunNews
from stepwell_server.store.job_ends import JobEnd
from stepwell_server.store.notices import Notice
from stepwell_server.store.watches import End

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell_server.dispatch.cursors import Cursor
    from stepwell_server.store.watches import BatchNews

AnyEnd = End | JobEnd
AnyNews = AnyEnd | Notice
ONLY_ENDS = frozenset({RunNews.ENDED})

_MESSAGE_NEWS, _MESSAGE_BYTES = 256, 1024 * 1024
_QUEUE_BYTES = 4 * 1024 * 1024


class Found(NamedTuple):
    """What is known of some batches: ends by the keys of what ended, notices by their events' numbers."""

    ends: dict[int, AnyEnd]
    notices: dict[int, Notice]


class Told(NamedTuple):
    """What a stream is told of one batch, each with its place there: ends from 0 on, notices before them, below 0."""

    committer: int
    position: int
    news: list[tuple[int, AnyNews]]

    @property
    def size(self) -> int:
        return 64 + sum(each.size for _, each in self.news)


class Watched(NamedTuple):
    """What a stream is about: runs or jobs of one namespace, what of them, and how their ids end."""

    namespace_id: int
    kind: type[AnyEnd]
    news: frozenset[RunNews] = ONLY_ENDS
    ending: IdEnding = ANY_ID

    @property
    def has_notices(self) -> bool:
        return self.news != ONLY_ENDS

    def is_told(self, news: AnyNews) -> bool:
        if news.namespace_id != self.namespace_id or ending_of(news, self.ending.digits) != self.ending:
            return False
        if isinstance(news, Notice):
            return news.news in self.news
        return isinstance(news, self.kind) and RunNews.ENDED in self.news


class Stream:
    """One stream. What it is given goes first through `recalled`, read from the table, then through `queue`."""

    def __init__(self, watched: Watched, cursor: Cursor, most_batches: int) -> None:
        self.watched = watched
        self.seen = cursor
        self.arrived = asyncio.Event()
        self.goal: dict[int, int] | None = None  # how far to read the table; None: the feed is all it needs
        self.attached = False
        self.recalled: deque[Told] = deque()
        self._queue: deque[Told] = deque()
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

    def offer(self, batch: Told) -> None:
        """Queues a batch of the feed, or falls behind."""
        if not self.attached or batch.position <= self.seen.positions.get(batch.committer, 0):
            return
        if not batch.news and not self._queue and self.goal is None:
            self.seen.pass_batch(batch.committer, batch.position)
            return
        self._queue.append(batch)
        self._bytes += batch.size
        if len(self._queue) > self._most_batches or self._bytes > _QUEUE_BYTES:
            self.detach()
        self.arrived.set()

    def take(self) -> list[AnyNews]:
        """As much as one message holds, in order: no notice after an end."""
        taken: list[AnyNews] = []
        size = 0
        while source := self.recalled or (self._queue if self.goal is None else None):
            batch = source[0]
            begin = self.seen.partial.get(batch.committer)
            for place, news in batch.news:
                if begin is not None and place < begin:
                    continue
                size += news.size
                is_full = size > _MESSAGE_BYTES or len(taken) == _MESSAGE_NEWS
                if taken and (is_full or (isinstance(news, Notice) and not isinstance(taken[-1], Notice))):
                    self.seen.partial[batch.committer] = place
                    return taken
                taken.append(news)
            self.seen.pass_batch(batch.committer, batch.position)
            source.popleft()
            if source is self._queue:
                self._bytes -= batch.size
        return taken


def ending_of(news: AnyNews, digits: int) -> IdEnding:
    """How the id ends that news are about."""
    return IdEnding.of(news.job_id if isinstance(news, JobEnd) else news.run_id, digits)


def news_of(batch: BatchNews, found: Found) -> Iterator[tuple[int, AnyNews]]:
    """All that is known of a batch, each with its place there."""
    notices = batch.notices or []
    for place, number in enumerate(notices, -len(notices)):
        if (notice := found.notices.get(number)) is not None:
            yield place, notice
    for place, key in enumerate(batch.keys):
        if (end := found.ends.get(key)) is not None:
            yield place, end


def told_of(batch: BatchNews, found: Found, watched: Watched) -> Told:
    """What a stream is told of a batch."""
    told = [(place, news) for place, news in news_of(batch, found) if watched.is_told(news)]
    return Told(batch.committer, batch.position, told)
