"""A run while a batch changes it, fifth part: what it gets of topics."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from msgspec.structs import replace

from stepwell_server.engine.lazily import Kinds
from stepwell_server.engine.signal_change import SignalChange
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import SIGNAL_ORDINAL, TOPIC_EVENT, TOPIC_NAME, pack_attributes
from stepwell_server.model.payloads import Payload
from stepwell_server.model.steps import Step, is_on_topic
from stepwell_server.model.topics import TopicCopy, TopicEvent, TopicPosition, TopicView

if TYPE_CHECKING:
    from datetime import datetime


class TopicChange(SignalChange):
    """See the module, and `change`."""

    __slots__ = ("topic_positions", "topics")

    lazy: ClassVar[Kinds] = {
        **SignalChange.lazy,
        "topics": dict,
        "topic_positions": dict,
    }
    topics: dict[str, TopicView]
    topic_positions: dict[str, TopicPosition]

    def waiting_on(self, topic: str) -> list[Step]:
        """Open steps that wait for an event of that topic, in their order."""
        return sorted((step for step in self._waiting(topic) if is_on_topic(step)), key=lambda step: step.ordinal)

    def topic(self, name: str) -> tuple[int, TopicEvent | None]:
        """The last event of a topic, after which come those for a wait that begins; and the one that it gets at once.

        Asks for it if it is not loaded.
        """
        view, position = self._topic(name), self.topic_positions.get(name)
        had = max(view.had, position.number if position is not None else 0)
        kept = next((event for event in view.kept if event.number > had), None)
        if kept is None and not view.is_whole:
            raise Missing(topics=[name])
        return max(view.last_number, had), kept

    def last_of_topic(self, name: str) -> int:
        """The number of the last event of a topic that is kept or on its way, 0 for none. Asks for it as `topic`."""
        return self._topic(name).last_number

    def _topic(self, name: str) -> TopicView:
        view = self.topics.get(name)
        if view is None:
            raise Missing(topics=[name])
        return view

    def load_topic(self, name: str, view: TopicView) -> None:
        """Takes in how a topic looks; with what is known of it already, it is what follows that."""
        known = self.topics.get(name)
        if known is not None:
            view = replace(known, kept=known.kept + view.kept, is_whole=view.is_whole)
        self.topics[name] = view

    def copy_topic_event(self, topic: str, event: TopicEvent, ordinal: int) -> int:
        """Appends what an event of a topic says, for the step that gets it, and answers the new event's number.

        A full history takes it all the same: it ends an open step.
        """
        run = self.open
        number, signal = run.last_event + 1, run.last_signal + 1
        facts = {TOPIC_NAME: topic, TOPIC_EVENT: str(event.number), SIGNAL_ORDINAL: str(signal)}
        attributes = pack_attributes(Payload(0, b"", event.metadata), facts=facts)
        self.topic_copies.append(
            TopicCopy(run.run_key, number, ordinal, self.now, attributes, run.namespace_id, topic, event.number)
        )
        self.run = replace(run, last_event=number, last_signal=signal, version=run.version + 1, update_time=self.now)
        if event.retain_time is not None:
            self.note_had(topic, event.number, event.retain_time)
        return number

    def note_had(self, topic: str, number: int, expire_time: datetime) -> None:
        """Notes that an event was had which is kept for later waits: none of this chain gets it again."""
        known = self.topic_positions.get(topic)
        if known is not None:
            number, expire_time = max(number, known.number), max(expire_time, known.expire_time)
        self._set(self.topic_positions, topic, TopicPosition(self.chain_key, topic, number, expire_time))
