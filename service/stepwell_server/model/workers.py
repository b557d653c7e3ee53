"""Workers and their sessions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from stepwell_server.model import filters


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
    """A row of `sessions`. What stands behind `expire_time` is of the hello, for lists."""

    session_id: UUID
    namespace_id: int
    worker_id: str
    register_time: datetime
    hello: bytes
    expire_time: datetime
    task_queues: Sequence[str] = ()
    workflow_types: Sequence[str] = ()
    activity_types: Sequence[str] = ()
    build_id: str = ""
    identity: str = ""


LISTED: filters.Fields = {
    "worker_id": filters.SORTED_TEXT,
    "session_id": filters.ID,
    "task_queues": filters.TEXTS,
    "workflow_types": filters.TEXTS,
    "activity_types": filters.TEXTS,
    "build_id": filters.SORTED_TEXT,
    "identity": filters.TEXT,
    "register_time": filters.SORTED_TIME,
    "expire_time": filters.SORTED_TIME,
}
"""By what workers are filtered and sorted."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Hello)


def pack_hello(hello: Hello) -> bytes:
    """A hello as a column."""
    return _encoder.encode(hello)


def unpack_hello(packed: bytes) -> Hello:
    """The inverse of `pack_hello`."""
    return _decoder.decode(packed)


def listed_of(hello: Hello) -> tuple[Sequence[str], Sequence[str], Sequence[str], str, str]:
    """What of a hello has columns of its own."""
    return hello.task_queues, hello.workflow_types, hello.activity_types, hello.build_id, hello.identity
