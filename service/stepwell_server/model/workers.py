"""Workers and their sessions."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec


class Hello(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a worker said of itself."""

    worker_id: str
    task_queues: tuple[str, ...] = ()
    workflow_types: tuple[str, ...] = ()
    activity_types: tuple[str, ...] = ()
    build_id: str = ""
    identity: str = ""
    sdk: str = ""


class Session(msgspec.Struct, frozen=True, gc=False):
    """A row of `sessions`."""

    session_id: UUID
    namespace_id: int
    worker_id: str
    register_time: datetime
    hello: bytes
    expire_time: datetime


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Hello)


def pack_hello(hello: Hello) -> bytes:
    """A hello as a column."""
    return _encoder.encode(hello)


def unpack_hello(packed: bytes) -> Hello:
    """The inverse of `pack_hello`."""
    return _decoder.decode(packed)
