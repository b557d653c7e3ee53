"""Topics for programs without asyncio: those of `stepwell.topics`, whose calls return when they are done."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.policies import Seconds
    from stepwell.sync import Loop
    from stepwell.topics import Topics
    from stepwell.v1 import topics_pb2


class SyncTopics:
    """A client's topics; `client.topics`."""

    def __init__(self, loop: Loop, inner: Topics) -> None:
        """Made by the client."""
        self._loop = loop
        self._inner = inner

    def publish(self, topic: str, value: object = None, *, retain: Seconds | None = None, request_id: str = "") -> int:
        """Publishes an event for every run that waits on the topic, and gives its place among the topic's events.

        For `retain` seconds (default: none) it is kept for waits that begin later. Raises `InvalidField`,
        `NamespaceNotFound`, `RequestIdReused`.
        """
        return self._loop.call(self._inner.publish(topic, value, retain=retain, request_id=request_id))

    def events(self, topic: str) -> Iterator[topics_pb2.TopicEvent]:
        """Lists the events of a topic that are kept or on their way, oldest first."""
        return self._loop.iterate(self._inner.events(topic))

    def waits(self, topic: str) -> Iterator[topics_pb2.TopicWait]:
        """Lists the steps of runs that wait on a topic, the oldest run first."""
        return self._loop.iterate(self._inner.waits(topic))
