"""Topics: events that are published once, for every run that waits for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from stepwell._rpc import uuid7
from stepwell.policies import Seconds, duration
from stepwell.runs import PAGE_SIZE
from stepwell.v1 import topics_pb2
from stepwell.v1.topics_pb2_grpc import TopicServiceStub

if TYPE_CHECKING:
    import grpc.aio

    from stepwell._rpc import Caller
    from stepwell.converter import DataConverter


class Topics:
    """A client's topics; `client.topics`. A topic is no more than a name."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller, namespace: str, converter: DataConverter) -> None:
        """Made by the client."""
        self._stub = TopicServiceStub(channel)
        self._caller = caller
        self._namespace = namespace
        self._converter = converter

    async def publish(
        self, topic: str, value: object = None, *, retain: Seconds | None = None, request_id: str = ""
    ) -> int:
        """Publishes an event for every run that waits on the topic, and gives its place among the topic's events.

        For `retain` seconds (default: none) it is kept for waits that begin later. A repeat under the same `request_id`
        (default: a new one, which covers lost answers) publishes nothing. Raises `InvalidField`, `NamespaceNotFound`,
        `RequestIdReused`.
        """
        request = topics_pb2.PublishEventRequest(
            namespace=self._namespace,
            topic=topic,
            payload=self._converter.to_payload(value),
            retain=duration(retain),
            request_id=request_id or uuid7(),
        )
        return (await self._caller.call(self._stub.PublishEvent, request)).number

    async def events(self, topic: str) -> AsyncGenerator[topics_pb2.TopicEvent, None]:
        """Lists the events of a topic that are kept or on their way, oldest first, as the protocol's messages."""
        request = topics_pb2.ListTopicEventsRequest(namespace=self._namespace, topic=topic, page_size=PAGE_SIZE)
        while True:
            page = await self._caller.call(self._stub.ListTopicEvents, request)
            for event in page.events:
                yield event
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def waits(self, topic: str) -> AsyncGenerator[topics_pb2.TopicWait, None]:
        """Lists the steps of runs that wait on a topic, the oldest run first, as the protocol's messages."""
        request = topics_pb2.ListTopicWaitsRequest(namespace=self._namespace, topic=topic, page_size=PAGE_SIZE)
        while True:
            page = await self._caller.call(self._stub.ListTopicWaits, request)
            for wait in page.waits:
                yield wait
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
