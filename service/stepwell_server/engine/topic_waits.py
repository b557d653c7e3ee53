"""Topics, on which the code of runs waits: an event reaches each wait that was there before it, in the order of events.

A wait notes the last event that there was when it began. Whoever brings events brings all that are on their way, and
the wait takes the first after what it noted: however often they are brought, it gets the same one, never an older.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stepwell_server.engine import endings
from stepwell_server.engine.change import Change
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.runs import RunRef
from stepwell_server.model.steps import StepState, unpack_step_details
from stepwell_server.model.topics import TopicEvent

if TYPE_CHECKING:
    from stepwell_server.model.steps import Step


class BringEvents(msgspec.Struct, frozen=True, gc=False):
    """Brings a run the events of a topic that are on their way, in their order. Answers whether it took any."""

    ref: RunRef
    topic: str
    events: tuple[TopicEvent, ...]

    def wants(self) -> Missing:
        return Missing(waits=[self.topic])

    def decide(self, change: Change) -> bool:
        if change.run is None:
            return False
        taken = [step for step in change.waiting_on(self.topic) if self._bring(change, step)]
        if taken:
            endings.wake(change)
        return bool(taken)

    def _bring(self, change: Change, step: Step) -> bool:
        after = unpack_step_details(step.details).after_number or 0
        event = next((event for event in self.events if event.number > after), None)
        if event is not None:
            take(change, step, self.topic, event)
        return event is not None


def take(change: Change, step: Step, topic: str, event: TopicEvent) -> None:
    """Ends a wait with an event, which the run's history gets a copy of."""
    number = change.copy_topic_event(topic, event, step.ordinal)
    change.end_step(step, StepState.COMPLETED, number, payload=event.payload)


def has_event_coming(change: Change, step: Step) -> bool:
    """Whether an event that the wait will get was published: it is on its way, and no timeout comes before it now."""
    after = unpack_step_details(step.details).after_number or 0
    return step.wait_name is not None and change.last_of_topic(step.wait_name) > after
