"""Values that nobody should send, by the kind of their field, and where in a request they can stand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

F = FieldDescriptor
INT32, INT64 = (-(2**31), -1, 2**31 - 1), (-(2**63), -1, 2**31, 2**40, 2**63 - 1)
TEXTS = (
    "\0",
    "a\0b",
    "\x1b[2J\r\n",
    "\x85\u2028\ufffe\U0010ffff",
    "x" * 256,
    "é" * 128,
    "-",
    "%_*'\";--\\",
    "00000000-0000-0000-0000-000000000000",
    "x" * 300_000,
)
JSONS = ("NaN", "[" * 20_000, "{", "\0", '"\\ud800"', '{"a":1e999}', "x" * 3_000_000)
BYTES = (b"\0", b"\xff" * 33, b"x" * 300_000, b"x" * 3_000_000)
NUMBERS = (math.nan, math.inf, -math.inf, -1.0, 1e308, 5e-324)
DURATIONS = (
    Duration(seconds=-1),
    Duration(seconds=1, nanos=-1),
    Duration(nanos=2**31 - 1),
    Duration(seconds=315_576_000_000),
    Duration(seconds=-315_576_000_000),
    Duration(seconds=2**63 - 1, nanos=999_999_999),
    Duration(seconds=-(2**63), nanos=-(2**31)),
)
TIMES = (
    Timestamp(seconds=-1),
    Timestamp(nanos=-1),
    Timestamp(seconds=1, nanos=2**31 - 1),
    Timestamp(seconds=-62_135_596_800),
    Timestamp(seconds=250_246_627_199, nanos=999_999_999),
    Timestamp(seconds=253_402_300_799, nanos=999_999_999),
    Timestamp(seconds=253_402_300_800),
    Timestamp(seconds=2**63 - 1),
    Timestamp(seconds=-(2**63), nanos=-(2**31)),
)
FILTERS = (
    "(" * 5_000,
    "NOT " * 5_000,
    '"\0" = 1',
    'type = "\0"',
    "type = " + "x" * 3_000,
    'create_time > "9999-12-31T23:59:59-23:59"',
    'create_time > "0001-01-01T00:00:00+23:59"',
    " OR ".join(["type=a"] * 200),
)


def deep_value(depth: int) -> Value:
    value = Value()
    for _ in range(depth):
        value = Value(list_value=ListValue(values=[value]))
    return value


VALUES = (
    Value(number_value=math.nan),
    Value(number_value=-math.inf),
    Value(string_value="\0" * 10),
    Value(struct_value=Struct(fields={"\0": Value(number_value=1e308)})),
    deep_value(40),
)
PATHS = ("", ".", "spec..cron", "run.input.json.x", "name", "x" * 5_000, "\0")
MASKS = tuple(FieldMask(paths=[path]) for path in PATHS)
LEAVES: dict[str, tuple[Any, ...]] = {
    "google.protobuf.Duration": DURATIONS,
    "google.protobuf.Timestamp": TIMES,
    "google.protobuf.Value": VALUES,
    "google.protobuf.FieldMask": MASKS,
}
BY_NAME: dict[str, tuple[Any, ...]] = {
    "json": JSONS,
    "filter": FILTERS,
    "order_by": (*TEXTS, "create_time desc desc", "create_time," * 300, "name, name"),
}
BY_TYPE: dict[int, tuple[Any, ...]] = {
    F.TYPE_STRING: TEXTS,
    F.TYPE_BYTES: BYTES,
    F.TYPE_INT32: INT32,
    F.TYPE_INT64: INT64,
    F.TYPE_ENUM: (-(2**31), -1, 0, 99, 2**31 - 1),
    F.TYPE_DOUBLE: NUMBERS,
}
_DEPTH = 7


class Place(NamedTuple):
    """A field in a request: the fields that lead to it, itself last."""

    path: tuple[FieldDescriptor, ...]

    def __str__(self) -> str:
        return ".".join(field.name for field in self.path)

    @property
    def field(self) -> FieldDescriptor:
        return self.path[-1]

    def put(self, request: Message, value: Any, samples: dict[str, dict[str, Any]]) -> None:
        """Sets the field; the messages on the way to it are made of samples where they are not there."""
        message: Any = request
        for field in self.path[:-1]:
            message = _within(message, field, samples)
        _set(message, self.field, value, samples)


def places(descriptor: Descriptor, path: tuple[FieldDescriptor, ...] = ()) -> Iterator[Place]:
    """Every field of a request, however deep."""
    for field in descriptor.fields:
        here = (*path, field)
        yield Place(here)
        below = field.message_type
        if below is None or is_map(field) or below.full_name in LEAVES or len(here) > _DEPTH:
            continue
        yield from places(below, here)


def hostile(field: FieldDescriptor) -> Iterator[Any]:
    """What to try in a field."""
    if is_map(field):
        yield {"": 1}
        yield {"\0": 1}
        yield {str(number): 1 for number in range(300)}
        yield {"x" * 300: 1}
        yield {"x": -(2**31), "y": 0, "z": 2**31 - 1}
    elif field.message_type is not None:
        yield from LEAVES.get(field.message_type.full_name, ())
        if field.is_repeated:
            yield 1_001
    else:
        yield from BY_NAME.get(field.name, BY_TYPE.get(field.type, ()))
        if field.is_repeated:
            yield 1_001


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def sampled(message: Message, samples: dict[str, dict[str, Any]]) -> Message:
    """Fills a message with what makes one of its type a good one."""
    for name, value in samples.get(message.DESCRIPTOR.name, {}).items():
        field = message.DESCRIPTOR.fields_by_name[name]
        if field.is_repeated:
            getattr(message, name).extend(value)
        elif field.message_type is not None:
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    return message


def _within(message: Any, field: FieldDescriptor, samples: dict[str, dict[str, Any]]) -> Any:
    if field.is_repeated:
        items = getattr(message, field.name)
        return items[0] if items else sampled(items.add(), samples)
    if message.HasField(field.name):
        return getattr(message, field.name)
    getattr(message, field.name).SetInParent()
    return sampled(getattr(message, field.name), samples)


def _set(message: Any, field: FieldDescriptor, value: Any, samples: dict[str, dict[str, Any]]) -> None:
    if is_map(field):
        entries = getattr(message, field.name)
        entry: Any = field.message_type
        for key in value:
            kind = entry.fields_by_name["value"].message_type
            if kind is not None and "json" in kind.fields_by_name:
                entries[key].json = json.dumps(key)
            elif kind is not None:
                entries[key].text = key
            elif entry.fields_by_name["value"].type == F.TYPE_STRING:
                entries[key] = key
            else:
                entries[key] = value[key]
    elif field.is_repeated and field.message_type is not None:
        items = getattr(message, field.name)
        for _ in range(value):
            sampled(items.add(), samples)
    elif field.is_repeated:
        several = [1 if field.type != F.TYPE_STRING else "x"] * value if value == 1_001 else [value]
        getattr(message, field.name).extend(several)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)
