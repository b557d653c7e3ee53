"""Topics: events published once for all who wait. Field order is column order.

An event that a run has had, and whose wait is taken out of its record again, is kept for it as a signal is: under a
name that no signal can bear.
"""

from __future__ import annotations

import zlib
from datetime import datetime

import msgspec

from stepwell_server.model.payloads import Payload

_STRIPES = 256
_KEPT = "\x01"


class TopicWait(msgspec.Struct, frozen=True, gc=False):
    """A row of `topic_waits`: an open step that waits. It gets no event up to `after_number`."""

    run_key: int
    ordinal: int
    namespace_id: int
    topic: str
    after_number: int


class TopicEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as decisions see it. The database copies what it carries to each run that gets it.

    `payload` is at hand, for the run's worker, where it is small.
    """

    number: int
    retain_time: datetime | None
    metadata: dict[str, str] | None = None
    payload: Payload | None = None


class TopicView(msgspec.Struct, frozen=True, gc=False):
    """A topic as it looks to a wait that begins.

    `last_number` is that of its last event, `had` that of the last which the chain of runs has had; `kept` are the
    first after that which are there for later waits, all of them if `is_whole`.
    """

    last_number: int
    had: int
    kept: tuple[TopicEvent, ...]
    is_whole: bool


class TopicCopy(msgspec.Struct, frozen=True, gc=False):
    """An event of a run's history that says what one of a topic says: its payload is copied by the database."""

    run_key: int
    number: int
    step_ordinal: int
    event_time: datetime
    attributes: bytes | None
    namespace_id: int
    topic: str
    topic_number: int


class TopicPosition(msgspec.Struct, frozen=True, gc=False):
    """A row of `topic_positions`: the last event of a topic that a chain of runs has had."""

    chain_key: int
    topic: str
    number: int
    expire_time: datetime


def stripe_of(namespace_id: int, topic: str) -> int:
    """Which of the locks is a topic's; several topics have the same."""
    return zlib.crc32(f"{namespace_id}/{topic}".encode()) % _STRIPES


def kept_name(topic: str) -> str:
    """The name under which an event of a topic is kept for a run, as signals are."""
    return _KEPT + topic
