"""History: what happened to a run, and every payload of it. Field order is column order."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum

import msgspec

from stepwell_server.model import filters
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.signals import Signal
from stepwell_server.model.topics import kept_name


class EventType(IntEnum):
    """What happened. The names, in the form RunStarted, are what the API shows."""

    CALLER = 0
    RUN_STARTED = 1
    RUN_COMPLETED = 2
    RUN_FAILED = 3
    RUN_CANCELLED = 4
    RUN_TERMINATED = 5
    RUN_TIMED_OUT = 6
    RUN_SKIPPED = 7
    RUN_CONTINUED = 8
    RUN_CANCEL_REQUESTED = 9
    RUN_PAUSED = 10
    RUN_RESUMED = 11
    RUN_INTERRUPTED = 12
    RUN_SUSPENDED = 13
    RUN_REWOUND = 14
    RUN_ATTEMPT_FAILED = 15
    RUN_RETURNED = 16
    RUN_PINNED = 17
    RUN_RETRIED = 18
    RUN_REPAIRED = 19
    RUN_ADMITTED = 96
    RUN_DEBOUNCED = 97
    STEP_COMPLETED = 20
    STEP_FAILED = 21
    STEP_SKIPPED = 22
    STEP_CANCELLED = 23
    STEP_SCHEDULED = 24
    STEP_STARTED = 25
    ACTIVITY_SCHEDULED = 30
    ACTIVITY_COMPLETED = 31
    ACTIVITY_FAILED = 32
    ACTIVITY_CANCELLED = 33
    ACTIVITY_ATTEMPT_FAILED = 34
    ACTIVITY_INTERRUPTED = 35
    ACTIVITY_RETURNED = 36
    ACTIVITY_REQUEUED = 37
    TIMER_STARTED = 40
    TIMER_FIRED = 41
    TIMER_CANCELLED = 42
    WAIT_STARTED = 50
    WAIT_COMPLETED = 51
    WAIT_TIMED_OUT = 52
    WAIT_CANCELLED = 53
    SIGNAL_RECEIVED = 54
    TOPIC_RECEIVED = 55
    CHILD_STARTED = 60
    CHILD_COMPLETED = 61
    CHILD_FAILED = 62
    CHILD_CANCELLED = 63
    MARKER_RECORDED = 70
    UPDATE_ACCEPTED = 71
    UPDATE_COMPLETED = 72
    UPDATE_FAILED = 73
    USER_TASK_CREATED = 84
    USER_TASK_CHANGED = 85
    USER_TASK_COMPLETED = 86
    USER_TASK_CANCELLED = 87
    SEARCH_ATTRIBUTES_SET = 90

    STEP_WAITING = 92
    STEP_RETRIED = 93
    STEP_RESET = 94

    @property
    def label(self) -> str:
        """The name that the API shows."""
        return self.name.title().replace("_", "")


class Origin(IntEnum):
    """Who appended an event; the proto's EventOrigin."""

    ENGINE = 1
    CALLER = 2


SIGNAL_NAME, SIGNAL_ORDINAL, TOPIC_NAME, TOPIC_EVENT = "signal", "ordinal", "topic", "topic_event"
"""The facts that tell of a received signal, or event of a topic; they go with it along a chain of runs."""


class Attributes(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What an event says besides its payload."""

    failure: Failure | None = None
    facts: dict[str, str] | None = None
    metadata: dict[str, str] | None = None


class Event(msgspec.Struct, frozen=True, gc=False):
    """A row of `events`."""

    run_key: int
    number: int
    type: int
    origin: int
    step_ordinal: int
    event_time: datetime
    payload_kind: int
    payload: bytes | None
    caller_type: str | None
    caller_seq: int
    attributes: bytes | None


LISTED: filters.Fields = {
    "number": filters.NUMBER,
    "type": filters.TEXT,
    "origin": filters.member_of(Origin, "EVENT_ORIGIN_"),
    "time": filters.TIME,
    "step_ordinal": filters.NUMBER,
    "caller_seq": filters.NUMBER,
}
"""By what lists of events are filtered."""


class CopiedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event that says what one of another run says: its payload is copied by the database."""

    run_key: int
    number: int
    event_time: datetime
    from_key: int
    from_number: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Attributes)
NO_ATTRIBUTES = Attributes()


def pack_attributes(
    payload: Payload = NULL, failure: Failure | None = None, facts: dict[str, str] | None = None
) -> bytes | None:
    """What an event says besides its payload's body, as a column; None where that is nothing."""
    if failure is None and facts is None and payload.metadata is None:
        return None
    return _encoder.encode(Attributes(failure, facts, payload.metadata))


def unpack_attributes(packed: bytes | None) -> Attributes:
    """The inverse of `pack_attributes`."""
    return NO_ATTRIBUTES if packed is None else _decoder.decode(packed)


def payload_of(kind: int, body: bytes | None, attributes: Attributes) -> Payload:
    """The payload that an event's columns hold."""
    return Payload(kind, body or b"", attributes.metadata) if kind else NULL


def received_signal(run_key: int, number: int, attributes: bytes | None, time: datetime, chain_key: int = 0) -> Signal:
    """The signal, or event of a topic, of whose coming an event tells, as if nobody had taken it; without its id."""
    facts = unpack_attributes(attributes).facts or {}
    name, ordinal = facts.get(SIGNAL_NAME, ""), int(facts.get(SIGNAL_ORDINAL, "0"))
    name = name or kept_name(facts.get(TOPIC_NAME, ""))
    return Signal(run_key, ordinal, name, number, None, consumed=False, receive_time=time, chain_key=chain_key)
