"""Payloads and failures: what callers give, stored and handed on unread."""

from __future__ import annotations

import msgspec

NONE, JSON, DATA = 0, 1, 2


class Payload(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A value of the caller's: `kind` tells JSON text from bytes from nothing; `metadata` is for codecs."""

    kind: int
    body: bytes
    metadata: dict[str, str] | None = None


NULL = Payload(NONE, b"")


class Failure(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Why something did not succeed. `timeout_kind` is the proto's TimeoutKind, 0 for none."""

    message: str
    type: str = ""
    stack_trace: str = ""
    non_retryable: bool = False
    details: Payload | None = None
    next_retry_seconds: float | None = None
    timeout_kind: int = 0


_encoder = msgspec.msgpack.Encoder()
_payloads = msgspec.msgpack.Decoder(Payload)
_failures = msgspec.msgpack.Decoder(Failure)


def pack_payload(payload: Payload | None) -> bytes | None:
    """A payload as one column, where it is rare; the hot ones have columns of their own in `events`."""
    return None if payload is None or payload is NULL else _encoder.encode(payload)


def encode_payload(payload: Payload) -> bytes:
    """A payload as a column of its own, the null value too; `unpack_payload` is the inverse."""
    return _encoder.encode(payload)


def unpack_payload(packed: bytes | None) -> Payload:
    """The inverse of `pack_payload`."""
    return NULL if packed is None else _payloads.decode(packed)


def pack_failure(failure: Failure | None) -> bytes | None:
    """A failure as one column."""
    return None if failure is None else _encoder.encode(failure)


def unpack_failure(packed: bytes | None) -> Failure | None:
    """The inverse of `pack_failure`."""
    return None if packed is None else _failures.decode(packed)
