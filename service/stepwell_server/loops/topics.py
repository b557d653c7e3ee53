"""Topics: brings events to those who wait for them, a slice at a time, and wakes soon after one is published.

A walk brings all events of a topic that are on their way, by the keys of the runs that wait. Whoever got one waits no
more, so that a walk begun anew, here or by another leader, only does what is left. The events are done with when a walk
has come to its end, and every run that it met has answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stepwell_server import errors
from stepwell_server.engine.topic_waits import BringEvents
from stepwell_server.loops.orders import SLICE, CommandLoop, submit_all
from stepwell_server.model.runs import RunRef
from stepwell_server.model.topics import TopicEvent, stripe_of
from stepwell_server.store import topics
from stepwell_server.store.faults import Conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stepwell_server.clock import Clock
    from stepwell_server.engine.committer import Committers
    from stepwell_server.loops.connection import SharedConnection
    from stepwell_server.store.connection import Connection

_PUBLISHED = "published"
_EVENTS_AT_ONCE = 1_024
# Each run's history gets its own copy of an event, so that a large one goes to few at a time.
_SLICE_BYTES = 8 * 1024 * 1024
# For so long a topic is left alone when a run did not answer.
_PAUSE_SECONDS = 1.0
Topic = tuple[int, str]


class Walk(msgspec.Struct):
    """The way of a topic's events through those who wait: where it is, and whether all have answered so far."""

    events: tuple[TopicEvent, ...]
    size: int
    after_key: int = 0
    has_failed: bool = False

    @property
    def number(self) -> int:
        """That of the last event."""
        return self.events[-1].number


class Topics(CommandLoop):
    """See the module."""

    name = "topics"

    def __init__(
        self,
        connection: SharedConnection,
        committers: Committers,
        clock: Clock,
        seconds: float,
        may_run: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(connection, committers, clock, seconds, may_run)
        self._walks: dict[Topic, Walk] = {}
        # Topics whose walk somebody did not answer: with how many events, and until when they are left alone.
        self._failed: dict[Topic, tuple[int, float]] = {}

    def start(self) -> None:
        """Begins, with nothing in mind: another leader may have gone on meanwhile."""
        self._walks.clear()
        super().start()

    def pause(self, done: int) -> float:
        """None while something is on its way."""
        return 0.0 if self._walks else super().pause(done)

    async def run_once(self) -> int:
        """Goes on by a slice, with each topic that has events on their way."""
        steady = self._clock.monotonic()
        self._deferred.forget_old(steady)
        try:
            return await self._go_on(steady)
        except BaseException:
            # What the walks have seen may be out of date when they could go on.
            self._walks.clear()
            raise

    async def _go_on(self, steady: float) -> int:
        async with self._connection.use() as connection:
            await self._begin_walks(connection, steady)
            walks = self._next()
            places = [self._place(topic, walk, len(walks)) for topic, walk in walks]
            found = await topics.read_waiting(connection, places) if places else []
        orders: dict[tuple[Topic, int], BringEvents] = {}
        for (topic, walk), keys in zip(walks, found, strict=True):
            for key in dict.fromkeys(keys):
                if self._deferred.is_left((topic, key), steady):
                    walk.has_failed = True
                else:
                    orders[topic, key] = BringEvents(RunRef(topic[0], "", key), topic[1], walk.events)
        await self._bring(orders)
        await self._move_on(walks, places, found)
        return len(orders)

    async def _begin_walks(self, connection: Connection, steady: float) -> None:
        """Begins a walk for each topic that has new events: who waits for them is seen from now on."""
        begun: dict[Topic, list[topics.Undelivered]] = {}
        known = [len(walk.events) for walk in self._walks.values()] + [count for count, _ in self._failed.values()]
        most = _EVENTS_AT_ONCE + sum(known)
        for each in await topics.read_undelivered(connection, most):
            topic = (each.namespace_id, each.topic)
            if topic not in self._walks and steady >= self._failed.get(topic, (0, 0.0))[1]:
                begun.setdefault(topic, []).append(each)
        if not begun:
            return
        try:
            await topics.await_batches(connection, [stripe_of(*topic) for topic in begun])
        except Conflict:
            # Somebody stands still in the middle of a batch, and soon loses its locks. Walks under way go on.
            return
        for topic, events in begun.items():
            self._walks[topic] = Walk(tuple(each.event for each in events), max(each.size for each in events))

    def _next(self) -> list[tuple[Topic, Walk]]:
        """The walks whose turn it is: those that waited longest, as many as share a slice."""
        chosen: list[tuple[Topic, Walk]] = []
        size = 0
        for topic, walk in self._walks.items():
            size += walk.size
            if chosen and (size > _SLICE_BYTES or len(chosen) == SLICE):
                break
            chosen.append((topic, walk))
        for topic, walk in chosen:
            del self._walks[topic]
            self._walks[topic] = walk
        return chosen

    def _place(self, topic: Topic, walk: Walk, walks: int) -> topics.Place:
        """Where a walk goes on. All share a slice."""
        most = max(1, min(SLICE, _SLICE_BYTES // max(1, walk.size)) // walks)
        return topics.Place(*topic, walk.number, walk.after_key, most)

    async def _bring(self, orders: dict[tuple[Topic, int], BringEvents]) -> None:
        answers = await submit_all(self._committers, list(orders.values()))
        for (topic, key), answer in zip(orders, answers, strict=True):
            if isinstance(answer, bool | errors.RunNotFound):
                self._deferred.forget((topic, key))
            else:
                self._deferred.add((topic, key), self._clock.monotonic())
                self._walks[topic].has_failed = True

    async def _move_on(
        self, walks: Sequence[tuple[Topic, Walk]], places: Sequence[topics.Place], found: Sequence[Sequence[int]]
    ) -> None:
        """Ends the walks that met nobody more. One that somebody did not answer begins again after a pause."""
        done: list[tuple[int, str, int]] = []
        for (topic, walk), place, keys in zip(walks, places, found, strict=True):
            if len(keys) == place.most:
                walk.after_key = keys[-1]
                continue
            del self._walks[topic]
            if walk.has_failed:
                self._failed[topic] = (len(walk.events), self._clock.monotonic() + _PAUSE_SECONDS)
            else:
                self._failed.pop(topic, None)
                done += [(*topic, event.number) for event in walk.events]
        if done:
            async with self._connection.use() as connection:
                await topics.note_delivered(connection, done)


class TopicNews:
    """Tells the loop, here or at the leader, that something was published."""

    def __init__(self, loop: Topics, is_leading: Callable[[], bool], publish: Callable[[str, object], None]) -> None:
        self._loop = loop
        self._is_leading = is_leading
        self._publish = publish

    def published(self) -> None:
        """An event was recorded by this replica."""
        if self._is_leading():
            self._loop.wake()
        else:
            self._publish(_PUBLISHED, None)

    def hinted(self, kind: str, data: object) -> None:
        """What another replica tells."""
        del data
        if kind == _PUBLISHED and self._is_leading():
            self._loop.wake()
