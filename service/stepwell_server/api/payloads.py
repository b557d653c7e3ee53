"""Payloads, failures and times between the wire and the model. Only their size and their marks are looked at."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from stepwell.v1 import types_pb2
from stepwell_server.api.fields import Fields, seconds
from stepwell_server.errors import InvalidField
from stepwell_server.model.payloads import DATA, JSON, NONE, NULL, Failure, Payload

_METADATA_ENTRIES = 16
# A failure is cut, never refused: a worker must be able to report it.
_MESSAGE_CHARACTERS = 16_384
_STACK_CHARACTERS = 65_536
_TYPE_CHARACTERS = 255
# Beyond it a double no longer holds every integer.
_EXACT = 2**53
_NANOS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = 86_400


def payload_from_proto(message: types_pb2.Payload, fields: Fields, field: str, at: str = "") -> Payload:
    """Reads a payload; one that is absent, or has no body, is the null value."""
    body = message.WhichOneof("body")
    if body is None and not message.metadata:
        return NULL
    metadata = None
    if message.metadata:
        path = f"{field}.metadata"
        metadata = fields.attributes(dict(message.metadata), path, at, at_most=_METADATA_ENTRIES)
    if body is None:
        return Payload(NONE, b"", metadata)
    if body == "json":
        payload = Payload(JSON, message.json.encode(), metadata)
    elif body == "data":
        payload = Payload(DATA, message.data, metadata)
    else:
        payload = Payload(JSON, json_of_value(message.value, f"{at}{field}.value"), metadata)
    if len(payload.body) > fields.limits.payload_bytes:
        problem = (
            f"has {len(payload.body)} bytes, and a payload at most {fields.limits.payload_bytes}: send a reference"
        )
        raise InvalidField(field=at + field, problem=problem)
    return payload


def payload_to_proto(payload: Payload | None) -> types_pb2.Payload | None:
    """Renders a payload; the null value as one without a body."""
    if payload is None:
        return None
    message = types_pb2.Payload()
    fill_payload(message, payload)
    return message


def fill_payload(message: types_pb2.Payload, payload: Payload) -> None:
    """The same where the message stands already: what is given to a larger one is copied."""
    if payload.kind == JSON:
        message.json = payload.body.decode()
    elif payload.kind == DATA:
        message.data = payload.body
    else:
        message.SetInParent()
    if payload.metadata:
        message.metadata.update(payload.metadata)


def failure_from_proto(message: types_pb2.Failure, fields: Fields, field: str, at: str = "") -> Failure:
    """Reads a failure. Text that is too long is cut."""
    path = f"{at}{field}."
    return Failure(
        message=storable(message.message, _MESSAGE_CHARACTERS),
        type=storable(message.type, _TYPE_CHARACTERS),
        stack_trace=storable(message.stack_trace, _STACK_CHARACTERS),
        non_retryable=message.non_retryable,
        details=payload_from_proto(message.details, fields, "details", path) if message.HasField("details") else None,
        next_retry_seconds=seconds(message, "next_retry_delay", path),
        timeout_kind=fields.member(message.timeout_kind, types_pb2.TimeoutKind, "timeout_kind", path),
    )


def failure_to_proto(failure: Failure | None) -> types_pb2.Failure | None:
    """Renders a failure."""
    if failure is None:
        return None
    return types_pb2.Failure(
        message=failure.message,
        type=failure.type,
        stack_trace=failure.stack_trace,
        non_retryable=failure.non_retryable,
        details=payload_to_proto(failure.details),
        next_retry_delay=duration_to_proto(failure.next_retry_seconds),
        timeout_kind=types_pb2.TimeoutKind.ValueType(failure.timeout_kind),
    )


def fill_time(message: Timestamp, time: datetime) -> None:
    """Renders a time where its message stands already; `FromDatetime` costs several times as much."""
    since = time - _EPOCH
    message.seconds = since.days * _DAY + since.seconds
    message.nanos = since.microseconds * 1_000


def duration_to_proto(value: float | None) -> Duration | None:
    """Renders seconds."""
    if value is None:
        return None
    whole, nanos = divmod(round(value * _NANOS), _NANOS)
    return Duration(seconds=whole, nanos=nanos)


def json_of_value(value: Value, path: str) -> bytes:
    """Writes a value as JSON text; a whole number loses the fraction that it never had."""
    return msgspec.json.encode(_plain(value, path))


def _plain(value: Value, path: str) -> object:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        return _number(value.number_value, path)
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return {name: _plain(member, path) for name, member in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_plain(item, path) for item in value.list_value.values]
    return None


def _number(number: float, path: str) -> float | int:
    if not math.isfinite(number):
        raise InvalidField(field=path, problem=f"holds {number}, which JSON cannot: leave it out or send it as text")
    return int(number) if number.is_integer() and abs(number) <= _EXACT else number


def storable(text: str, at_most: int) -> str:
    """Cuts text, and replaces the one character that Postgres takes in no text."""
    return text[:at_most].replace("\0", "\N{REPLACEMENT CHARACTER}")
