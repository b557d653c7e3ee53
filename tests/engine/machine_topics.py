"""Random lives, the part of topics: events are published and brought at any time, and what a chain of runs then has."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant
from tests.engine.code import json
from tests.engine.draws import TOPICS, Draw
from tests.engine.world import MAIN, World

from stepwell_server.engine.committer.orders import Order
from stepwell_server.engine.topic_waits import BringEvents
from stepwell_server.model.events import EventType, unpack_attributes
from stepwell_server.model.runs import unpack_details
from stepwell_server.model.steps import unpack_step_details


class TopicLives(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @abstractmethod
    def give(self, order: Order, then: Callable[[Any], None] = lambda _: None) -> None:
        """Has a command committed with others."""

    def chain_of(self, key: int) -> int:
        """The first run of its chain."""
        run = self.world.store.runs.get(key) or self.world.store.closed_runs[key]
        return unpack_details(run.details).first_key or key

    def publish(self, draw: Draw) -> None:
        """Somebody publishes an event, kept for a while or not."""
        until = self.world.now + timedelta(seconds=60) if draw(st.booleans()) else None
        self.world.store.topics.publish(MAIN, draw(TOPICS), json("1"), until)

    def bring(self, draw: Draw) -> None:
        """The leader brings all events of a topic to a run: no wait is left that was there before the last of them."""
        waiting = [(wait.run_key, wait.topic) for wait in self.world.store.topics.waits.values()]
        if not waiting:
            return
        key, topic = draw(st.sampled_from(sorted(waiting)))
        events = tuple(event for event, _ in self.world.store.topics.events.get((MAIN, topic), {}).values())
        if not events:
            return

        def told(answer: Any) -> None:
            if isinstance(answer, bool):
                waits = [wait for wait in self.world.store.topics.waits.values() if wait.run_key == key]
                assert all(wait.after_number >= events[-1].number for wait in waits if wait.topic == topic)

        self.give(BringEvents(self.world.ref(key), topic, events), told)

    @invariant()
    def kept_events_come_once_and_in_their_order(self) -> None:
        """What a wait of a chain gets as it begins is later than all kept events that the chain has had."""
        store, had = self.world.store, dict[tuple[int, str], int]()
        kept = {
            event.number for topic in store.topics.events.values() for event, _ in topic.values() if event.retain_time
        }
        for key in sorted([*store.runs, *store.closed_runs]):
            for event in self.world.events(key):
                if event.type != EventType.TOPIC_RECEIVED or not event.step_ordinal:
                    continue
                facts = unpack_attributes(event.attributes).facts or {}
                place, number = (self.chain_of(key), facts["topic"]), int(facts["topic_event"])
                step = store.closed_steps.get((key, event.step_ordinal))
                after = unpack_step_details(step.details).after_number if step is not None else None
                if after is not None and number <= after:
                    assert number > had.get(place, 0)
                    assert number in kept
                had[place] = max(had.get(place, 0), number if number in kept else 0)
