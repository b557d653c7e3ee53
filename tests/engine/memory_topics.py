"""Topics of the store in memory: the functions of `store.topics` that batches call."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from stepwell_server.model.events import Event, EventType, Origin
from stepwell_server.model.payloads import Payload
from stepwell_server.model.topics import TopicEvent, TopicPosition, TopicView, TopicWait
from stepwell_server.store.batches import Write


class MemoryTopics:
    """See the module. `busy` are the locks that somebody else has."""

    def __init__(self) -> None:
        self.events: dict[tuple[int, str], dict[int, tuple[TopicEvent, Payload]]] = {}
        self.waits: dict[tuple[int, int], TopicWait] = {}
        self.positions: dict[tuple[int, str], TopicPosition] = {}
        self.busy: set[int] = set()
        self.looks = 0
        self._last = 0

    def publish(
        self, namespace_id: int, topic: str, payload: Payload, retain_time: datetime | None = None
    ) -> TopicEvent:
        self._last += 1
        event = TopicEvent(self._last, retain_time, payload.metadata)
        self.events.setdefault((namespace_id, topic), {})[event.number] = (event, payload)
        return event

    async def hold(self, connection: Any, stripes: Sequence[int]) -> set[int]:
        return set(stripes) - self.busy

    async def read(
        self, connection: Any, wanted: Sequence[tuple[int, str, int, int]], now: datetime, most: int
    ) -> list[TopicView]:
        self.looks += 1
        views: list[TopicView] = []
        for namespace_id, topic, chain_key, after in wanted:
            events = self.events.get((namespace_id, topic), {})
            position = self.positions.get((chain_key, topic))
            had = position.number if position is not None else 0
            kept = [
                event
                for number, (event, _) in sorted(events.items())
                if number > max(had, after) and event.retain_time is not None and event.retain_time > now
            ][:most]
            views.append(TopicView(max(events, default=0), had, tuple(kept), len(kept) < most))
        return views

    def apply(self, write: Write, histories: dict[int, list[Event]]) -> None:
        for copy in write.topic_copies:
            _, payload = self.events[copy.namespace_id, copy.topic][copy.topic_number]
            histories[copy.run_key].append(
                Event(
                    copy.run_key,
                    copy.number,
                    EventType.TOPIC_RECEIVED,
                    Origin.ENGINE,
                    copy.step_ordinal,
                    copy.event_time,
                    payload.kind,
                    payload.body if payload.kind else None,
                    None,
                    0,
                    copy.attributes,
                )
            )
            histories[copy.run_key].sort(key=lambda event: event.number)
        for position in write.topic_positions:
            known = self.positions.get((position.chain_key, position.topic), position)
            number, expire = max(known.number, position.number), max(known.expire_time, position.expire_time)
            self.positions[position.chain_key, position.topic] = replace(position, number=number, expire_time=expire)
        for run_key, (kind, ordinal), row in write.sides:
            if isinstance(ordinal, int) and isinstance(row, TopicWait):
                assert (run_key, ordinal) not in self.waits
                self.waits[run_key, ordinal] = row
            elif kind is TopicWait and isinstance(ordinal, int):
                self.waits.pop((run_key, ordinal), None)
