"""Requests that may be repeated: what names them, and what they were answered. Field order is column order."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

RequestKey = tuple[str, int, str]
"""The caller's id of a request, the namespace (0: all, or none), and the method."""


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A request with an id of its caller's, which makes its repeat safe. `answer_type` is what it is answered with."""

    request_id: str
    namespace_id: int
    method: str
    body_hash: bytes
    answer_type: Any

    @property
    def key(self) -> RequestKey:
        """What is the same for a repeat."""
        return (self.request_id, self.namespace_id, self.method)


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """A row of `requests`."""

    request_id: str
    namespace_id: int
    method: str
    body_hash: bytes
    answer: bytes
    request_time: datetime


_encoder = msgspec.msgpack.Encoder()


def record(asked: Asked, answer: object, now: datetime) -> Recorded:
    """The row that tells a repeat what the request was answered."""
    return Recorded(*asked.key, asked.body_hash, _encoder.encode(answer), now)


def answer_of(recorded: Recorded, asked: Asked) -> object:
    """The inverse of `record`."""
    answer: object = msgspec.msgpack.decode(recorded.answer, type=asked.answer_type)
    return answer
