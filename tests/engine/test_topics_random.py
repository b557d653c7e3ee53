"""Random publications, waits and walks, against a model of a few lines: who gets what, and when."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.code import Code, json
from tests.engine.test_topics import WAIT, Topics

from stepwell_server.engine.reported import End, Successor
from stepwell_server.engine.topic_waits import BringEvents
from stepwell_server.model.runs import Phase
from stepwell_server.model.topics import TopicEvent

RUNS = 2
ACTS = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from([None, None, 3.0, 20.0])),
    st.tuples(st.just("wait"), st.integers(0, RUNS - 1), st.integers(1, 3)),
    st.tuples(st.just("bring"), st.integers(0, RUNS - 1), st.booleans()),
    st.tuples(st.just("pass"), st.sampled_from([1.0, 4.0])),
    st.tuples(st.just("continue"), st.integers(0, RUNS - 1)),
)


class Chain:
    """A chain of runs as the guarantees have it: what it has had, and what its open waits came too late for."""

    def __init__(self) -> None:
        self.had = 0
        self.waits: dict[int, int] = {}
        self.got: dict[int, bytes] = {}
        self.ordinal = 0

    def wait(self, events: list[TopicEvent], now: Any) -> None:
        self.ordinal += 1
        kept = [event for event in events if event.retain_time is not None and event.retain_time > now]
        fresh = [event for event in kept if event.number > self.had]
        if fresh:
            self._take(self.ordinal, fresh[0])
        else:
            self.waits[self.ordinal] = events[-1].number if events else 0

    def bring(self, events: list[TopicEvent]) -> None:
        for ordinal, after in sorted(self.waits.items()):
            later = [event for event in events if event.number > after]
            if later:
                del self.waits[ordinal]
                self._take(ordinal, later[0])

    def _take(self, ordinal: int, event: TopicEvent) -> None:
        self.got[ordinal] = str(event.number).encode()
        if event.retain_time is not None:
            self.had = max(self.had, event.number)


class Life:
    """A chain beside its model."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self.key = topics.world.start()
        self.code = Code(topics.world, self.key)
        self.model = Chain()

    def wait(self, count: int, events: list[TopicEvent]) -> None:
        self.code.send(*(self.code.call("paid", WAIT) for _ in range(count)), waiting=True, resident=True)
        for _ in range(count):
            self.model.wait(events, self.topics.world.now)

    def bring(self, events: list[TopicEvent], *, again: bool) -> None:
        for _ in range(1 + again):
            self.topics.world.do(BringEvents(self.topics.world.ref(self.key), "paid", tuple(events)))
        self.model.bring(events)

    def go_on(self) -> None:
        before = set(self.topics.world.store.runs)
        self.code.end(End(Phase.COMPLETED, successor=Successor(json("1"))))
        (self.key,) = set(self.topics.world.store.runs) - before
        self.code = Code(self.topics.world, self.key)
        had, self.model = self.model.had, Chain()
        self.model.had = had

    def check(self) -> None:
        got = self.topics.results(self.key, *range(1, self.model.ordinal + 1))
        assert got == [self.model.got.get(ordinal) for ordinal in range(1, self.model.ordinal + 1)]


@settings(max_examples=300, deadline=None)
@given(st.lists(ACTS, min_size=8, max_size=40))
def test_who_gets_what_is_as_guaranteed(acts: list[tuple[Any, ...]]) -> None:
    topics = Topics()
    lives = [Life(topics) for _ in range(RUNS)]
    events: list[TopicEvent] = []
    for act, *more in acts:
        if act == "publish":
            events.append(topics.publish(str(len(events) + 1), more[0]))
        elif act == "wait":
            lives[more[0]].wait(more[1], events)
        elif act == "bring":
            lives[more[0]].bring(events, again=more[1])
        elif act == "pass":
            topics.world.advance(more[0])
        else:
            lives[more[0]].go_on()
        for life in lives:
            life.check()
    topics.world.check()
