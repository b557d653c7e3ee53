"""Who watches at this replica: news find those whom they are for, and cost nothing to all others."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from stepwell_server.dispatch.watch_streams import Told, ending_of, news_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from stepwell_server.dispatch.watch_streams import AnyNews, Found, Stream, Watched
    from stepwell_server.ids import IdEnding
    from stepwell_server.store.watches import BatchNews


class Audience:
    """The streams, by what they watch."""

    def __init__(self) -> None:
        self._streams: dict[Watched, set[Stream]] = {}
        self._places: dict[tuple[int, IdEnding], list[Watched]] = {}
        self._digits: list[int] = []  # of the endings that are watched, each length once

    def __bool__(self) -> bool:
        return bool(self._streams)

    def __iter__(self) -> Iterator[Stream]:
        for streams in self._streams.values():
            yield from streams

    @property
    def watched(self) -> Collection[Watched]:
        """What any of them watches."""
        return self._streams.keys()

    def add(self, stream: Stream) -> None:
        """Lets a stream hear what comes."""
        if stream.watched not in self._streams:
            self._streams[stream.watched] = set()
            self._index()
        self._streams[stream.watched].add(stream)

    def discard(self, stream: Stream) -> None:
        """Lets it hear no more."""
        streams = self._streams.get(stream.watched, set())
        streams.discard(stream)
        if not streams and self._streams.pop(stream.watched, None) is not None:
            self._index()

    def tell(self, batch: BatchNews, found: Found, read: Collection[Watched] | None = None) -> None:
        """Tells all of a batch. `read` is what was watched when its news were read, where not all were."""
        told: dict[Watched, list[tuple[int, AnyNews]]] = defaultdict(list)
        for place, news in news_of(batch, found):
            for watched in self._whom(news):
                told[watched].append((place, news))
        for watched, streams in self._streams.items():
            if read is not None and watched not in read:
                for stream in streams:
                    stream.detach()
                continue
            for_them = Told(batch.committer, batch.position, told.get(watched, []))
            for stream in streams:
                stream.offer(for_them)

    def _whom(self, news: AnyNews) -> Iterator[Watched]:
        for digits in self._digits:
            for watched in self._places.get((news.namespace_id, ending_of(news, digits)), ()):
                if watched.is_told(news):
                    yield watched

    def _index(self) -> None:
        self._places = {}
        for watched in self._streams:
            self._places.setdefault((watched.namespace_id, watched.ending), []).append(watched)
        self._digits = sorted({watched.ending.digits for watched in self._streams})
