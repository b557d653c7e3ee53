"""TopicService."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import grpc.aio

from stepwell.v1 import topics_pb2, topics_pb2_grpc
from stepwell_server.api.fields import Fields, seconds
from stepwell_server.api.page import read_page
from stepwell_server.api.payloads import payload_from_proto, payload_to_proto
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_values import MESSAGE_MARGIN, time_to_proto
from stepwell_server.store import topic_events
from stepwell_server.store.topic_events import NewEvent, PublishedEvent, SeenEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell_server.clock import Clock
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]

_EVENT_BYTES = 512


class _AfterEvent(NamedTuple):
    """Where a list of events stands."""

    number: int


class _AfterWait(NamedTuple):
    """Where a list of waits stands."""

    run_key: int
    ordinal: int


class TopicCalls(topics_pb2_grpc.TopicServiceServicer):
    """Publishes events, and lists them and who waits. `published` is called once an event is recorded."""

    def __init__(
        self,
        database: Database,
        namespaces: Namespaces,
        clock: Clock,
        settings: Settings,
        published: Callable[[], None],
    ) -> None:
        self._database = database
        self._namespaces = namespaces
        self._clock = clock
        self._idle_seconds = settings.idle_transaction_seconds
        self._fields = Fields(settings.limits)
        self._published = published
        self._turns = topic_events.Turns()

    async def PublishEvent(
        self, request: topics_pb2.PublishEventRequest, context: Context
    ) -> topics_pb2.PublishEventResponse:
        topic = self._fields.name(request.topic, "topic")
        payload = payload_from_proto(request.payload, self._fields, "payload")
        retain = seconds(request, "retain", at_most=self._fields.limits.topic_retain_seconds)
        namespace_id, namespace = await self._space(request)
        asked = asked_of(request, namespace_id, PublishedEvent, self._fields)
        event = NewEvent(namespace_id, namespace, topic, payload, retain or 0.0)
        async with self._turns.of(namespace_id, topic):
            made = await topic_events.publish(self._database, event, self._clock.now(), self._idle_seconds, asked)
        self._published()
        return topics_pb2.PublishEventResponse(number=made.number, publish_time=time_to_proto(made.publish_time))

    async def ListTopicEvents(
        self, request: topics_pb2.ListTopicEventsRequest, context: Context
    ) -> topics_pb2.ListTopicEventsResponse:
        topic = self._fields.name(request.topic, "topic")
        page, (namespace_id, _) = read_page(request, _AfterEvent, self._fields.limits), await self._space(request)
        after = page.after.number if page.after is not None else 0
        most_bytes = self._fields.limits.message_bytes - MESSAGE_MARGIN - page.size * _EVENT_BYTES
        found, has_more = await topic_events.list_events(
            self._database, namespace_id, topic, after, page.size, most_bytes
        )
        token = page.token(_AfterEvent(found[-1].number)) if has_more and found else ""
        events = [event_to_proto(topic, event) for event in found]
        return topics_pb2.ListTopicEventsResponse(events=events, next_page_token=token)

    async def ListTopicWaits(
        self, request: topics_pb2.ListTopicWaitsRequest, context: Context
    ) -> topics_pb2.ListTopicWaitsResponse:
        topic = self._fields.name(request.topic, "topic")
        page, (namespace_id, _) = read_page(request, _AfterWait, self._fields.limits), await self._space(request)
        found = await topic_events.list_waits(
            self._database, namespace_id, topic, page.after or _AfterWait(0, 0), page.fetch
        )
        shown = found[: page.size]
        token = page.token(_AfterWait(shown[-1].run_key, shown[-1].ordinal)) if len(found) > page.size else ""
        waits = [
            topics_pb2.TopicWait(
                run_id=str(wait.run_id), workflow_id=wait.workflow_id, type=wait.type, step_ordinal=wait.ordinal
            )
            for wait in shown
        ]
        return topics_pb2.ListTopicWaitsResponse(waits=waits, next_page_token=token)

    async def _space(self, request: Any) -> tuple[int, str]:  # noqa: ANN401 - any of the requests
        namespace = self._fields.namespace(request.namespace)
        return await self._namespaces.id_of(namespace), namespace


def event_to_proto(topic: str, event: SeenEvent) -> topics_pb2.TopicEvent:
    """Renders an event."""
    return topics_pb2.TopicEvent(
        topic=topic,
        number=event.number,
        payload=payload_to_proto(event.payload),
        publish_time=time_to_proto(event.publish_time),
        retain_time=time_to_proto(event.retain_time),
        delivered=event.is_delivered,
    )
