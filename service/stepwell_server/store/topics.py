"""Topics: what batches need of them, and what brings events to those who wait.

Two locks keep order. Who publishes holds one of its topic, so that numbers are seen in their order. A batch that
records waits holds another, shared, from before it looks at the topic until its end (`hold`); who is about to look who
waits lets those batches end first (`await_batches`). So a wait that begins sees the event, or who brings the event sees
the wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from stepwell_server.model.events import EventType, Origin, payload_of, unpack_attributes
from stepwell_server.model.topics import TopicEvent, TopicView
from stepwell_server.store.columns import columns, pairs
from stepwell_server.store.faults import Conflict
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from stepwell_server.model.topics import TopicCopy, TopicPosition
    from stepwell_server.store.connection import Connection

TOPICS = load("topics")
# What a thousand events may bring into memory; what is larger is read by who tells a worker of it.
AT_HAND_BYTES = 16 * 1024


# --- batches ----------------------------------------------------------------------------------------------------------


async def hold(connection: Connection, stripes: Sequence[int]) -> set[int]:
    """Those of the locks of topics that are had now; they are held until the batch has ended."""
    return {row[0] for row in await connection.fetch(TOPICS["hold_topics"], stripes)}


async def read(
    connection: Connection, wanted: Sequence[tuple[int, str, int, int]], now: datetime, most: int
) -> list[TopicView]:
    """How topics look to waits that begin, in the order asked: (namespace, topic, chain, after which number).

    Of each, so many events at most.
    """
    last, had, kept = [0] * len(wanted), [0] * len(wanted), [list[TopicEvent]() for _ in wanted]
    numbered = [(place, *key) for place, key in enumerate(wanted)]
    for row in await connection.fetch(TOPICS["read_topics"], *pairs(numbered), now, most):
        last[row[0]], had[row[0]] = row[1], row[2]
        if row[3] is not None:
            kept[row[0]].append(_event(*row[3:]))
    return [TopicView(last[place], had[place], tuple(events), len(events) < most) for place, events in enumerate(kept)]


async def write(connection: Connection, copies: Sequence[TopicCopy], positions: list[TopicPosition]) -> None:
    """Copies events to the histories of runs, and notes that they had them.

    Raises Conflict if one is not there any more: it has reached all whom it was for, and is brought too late.
    """
    if copies:
        arguments: list[Any] = [*columns(copies), EventType.TOPIC_RECEIVED, Origin.ENGINE]
        if await connection.write(TOPICS["copy_topic_events"], arguments) != len(copies):
            raise Conflict("an event of a topic is gone")
    if positions:
        ordered = sorted(positions, key=lambda row: (row.chain_key, row.topic))
        await connection.write(TOPICS["write_topic_positions"], columns(ordered))


# --- bringing events --------------------------------------------------------------------------------------------------


class Undelivered(NamedTuple):
    """An event that is on its way, and how many bytes it carries."""

    namespace_id: int
    topic: str
    event: TopicEvent
    size: int


class Place(NamedTuple):
    """Who is looked for: runs with a greater key that wait on a topic since before an event."""

    namespace_id: int
    topic: str
    number: int
    after_key: int
    most: int


async def read_undelivered(connection: Connection, most: int) -> list[Undelivered]:
    """Events that are on their way, oldest first."""
    undelivered: list[Undelivered] = []
    for row in await connection.fetch(TOPICS["read_undelivered"], most, AT_HAND_BYTES):
        attributes = unpack_attributes(row[4])
        at_hand = payload_of(row[6], row[7], attributes) if row[5] <= AT_HAND_BYTES else None
        event = TopicEvent(row[2], row[3], attributes.metadata, at_hand)
        undelivered.append(Undelivered(row[0], row[1], event, row[5]))
    return undelivered


async def await_batches(connection: Connection, stripes: Sequence[int]) -> None:
    """Returns once all batches have ended that held these locks. Raises Conflict if that takes long."""
    await connection.fetch(TOPICS["await_batches"], sorted(set(stripes)))


async def read_waiting(connection: Connection, places: Sequence[Place]) -> list[list[int]]:
    """Runs that wait, by key, in the order asked; one that waits twice may stand there twice."""
    found: list[list[int]] = [[] for _ in places]
    numbered = [(number, *place) for number, place in enumerate(places)]
    for number, run_key in await connection.fetch(TOPICS["read_waiting"], *pairs(numbered)):
        found[number].append(run_key)
    return found


async def note_delivered(connection: Connection, events: Sequence[tuple[int, str, int]]) -> None:
    """Notes that events have reached all who waited: (namespace, topic, number)."""
    await connection.fetch(TOPICS["note_delivered"], *pairs(events))


async def prune_events(connection: Connection, now: datetime, most: int) -> int:
    """Forgets events whose time is over; answers how many."""
    return len(await connection.fetch(TOPICS["prune_topic_events"], now, most))


async def prune_positions(connection: Connection, now: datetime, most: int) -> int:
    """Forgets which events runs have had that are kept for nobody any more; answers how many."""
    return len(await connection.fetch(TOPICS["prune_topic_positions"], now, most))


def _event(number: int, retain_time: datetime | None, attributes: bytes | None) -> TopicEvent:
    return TopicEvent(number, retain_time, unpack_attributes(attributes).metadata)
