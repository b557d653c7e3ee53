"""Run calls: queries and updates on their way to whoever holds a run. Field order is column order."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from uuid import UUID

import msgspec

from stepwell_server.model.payloads import NULL, Failure, Payload

UPDATES = "0"
"""The scope of all acceptances and outcomes of a run's updates; what the n-th one does is in `0/n`."""
ACCEPTANCE, OUTCOME = "__update", "__outcome"
"""The names of their steps. Their key is the update's id."""


def acceptance_of(update_id: str) -> tuple[str, str, int, str]:
    """The identity of the step that records the acceptance of an update."""
    return (UPDATES, ACCEPTANCE, 0, update_id)


def outcome_of(update_id: str) -> tuple[str, str, int, str]:
    """The identity of the step that records what an update came to."""
    return (UPDATES, OUTCOME, 0, update_id)


class CallKind(IntEnum):
    """What a run is called for."""

    QUERY = 1
    UPDATE = 2


class RunCall(msgspec.Struct, frozen=True, gc=False):
    """A question or a change asked of a run. `update_id` is empty for a query; nobody waits after `expire_time`."""

    call_id: UUID
    run_key: int
    kind: int
    name: str
    update_id: str
    input: Payload
    expire_time: datetime


class CallAnswer(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What the run's worker says to a query; or of an update, with a failure, that it is not accepted."""

    payload: Payload = NULL
    failure: Failure | None = None


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """An update that the run's code did not accept."""

    update_id: str
    failure: Failure


class Published(msgspec.Struct, frozen=True, gc=False):
    """A row of `published`: the latest value of a name. `payload` is a Payload, as msgpack."""

    run_key: int
    name: str
    payload: bytes | None
    publish_time: datetime


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(CallAnswer)


def pack_answer(answer: CallAnswer) -> bytes:
    """An answer as a column."""
    return _encoder.encode(answer)


def unpack_answer(packed: bytes) -> CallAnswer:
    """The inverse of `pack_answer`."""
    return _decoder.decode(packed)
