"""Mail: what a change of one run means for another, applied later as an ordinary command."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from uuid import UUID

import msgspec

from stepwell_server.model.payloads import Failure, Payload


class Subject(IntEnum):
    """What the mail asks of the run that gets it."""

    CHILD_ENDED = 1
    CANCEL = 2
    TERMINATE = 3
    CARRY_SIGNALS = 4


class Letter(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a piece of mail says. For CHILD_ENDED: the parent's step, the child's phase and what it came to."""

    subject: int
    ordinal: int = 0
    phase: int = 0
    payload: Payload | None = None
    failure: Failure | None = None
    reason: str = ""


class Mail(msgspec.Struct, frozen=True, gc=False):
    """A row of `mail`."""

    mail_id: UUID
    run_key: int
    post_time: datetime
    body: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Letter)


def pack_letter(letter: Letter) -> bytes:
    """A letter as a column."""
    return _encoder.encode(letter)


def unpack_letter(body: bytes) -> Letter:
    """The inverse of `pack_letter`."""
    return _decoder.decode(body)
