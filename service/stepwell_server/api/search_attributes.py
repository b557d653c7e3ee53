"""Search attributes between the wire and the model."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from stepwell.v1 import search_attributes_pb2
from stepwell_server.api.fields import time
from stepwell_server.errors import InvalidField
from stepwell_server.model.search_attributes import ABSENT, AttributeKind, AttributeValue, flag, size_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stepwell_server.api.fields import Fields
    from stepwell_server.model.search_attributes import Values

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
"""What an attribute may be called: a filter writes it without quotes."""
TEXT_BYTES = 1_024
"""Of one value. An index holds it."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SHOWN = 64


def attributes_from_proto(
    message: Mapping[str, search_attributes_pb2.SearchAttribute], fields: Fields, field: str, at: str = ""
) -> dict[str, AttributeValue]:
    """Reads values by name: no more than a run may have in all."""
    limits = fields.limits
    if len(message) > limits.search_attributes:
        problem = f"has {len(message)} names, and a run at most {limits.search_attributes}: keep the rest in its input"
        raise InvalidField(field=at + field, problem=problem)
    values: dict[str, AttributeValue] = {}
    for name, value in message.items():
        if not NAME.fullmatch(name):
            problem = f"names {name[:_SHOWN]!r}: give 1 to 64 letters, digits, '_', '-', '.', the first a letter or '_'"
            raise InvalidField(field=at + field, problem=problem)
        values[name] = _value_from_proto(value, f"{at}{field}[{name}].")
    if (size := size_of(values)) > limits.search_attribute_bytes:
        problem = f"has {size} bytes, and a run at most {limits.search_attribute_bytes}: keep the rest in its input"
        raise InvalidField(field=at + field, problem=problem)
    return values


def _value_from_proto(value: search_attributes_pb2.SearchAttribute, at: str) -> AttributeValue:
    which = value.WhichOneof("value")
    if which is None:
        return ABSENT
    if which == "text":
        return AttributeValue(AttributeKind.TEXT, _text(value.text, at))
    if which == "integer":
        return AttributeValue(AttributeKind.INTEGER, number=value.integer)
    if which == "number":
        if not math.isfinite(value.number):
            raise InvalidField(field=f"{at}number", problem=f"is {value.number}: give a finite number")
        return AttributeValue(AttributeKind.NUMBER, number=value.number)
    if which == "flag":
        return flag(value.flag)
    return AttributeValue(AttributeKind.TIME, time=time(value, "time", at))


def _text(text: str, at: str) -> str:
    size = len(text.encode())
    if size > TEXT_BYTES:
        raise InvalidField(field=f"{at}text", problem=f"has {size} bytes: give it at most {TEXT_BYTES}")
    found = _CONTROL.search(text)
    if found is not None:
        problem = f"holds the control character U+{ord(found.group()):04X}: leave it out"
        raise InvalidField(field=f"{at}text", problem=problem)
    return text


def attributes_to_proto(values: Values) -> dict[str, search_attributes_pb2.SearchAttribute]:
    """Renders values by name."""
    return {name: _value_to_proto(value) for name, value in values.items()}


def _value_to_proto(value: AttributeValue) -> search_attributes_pb2.SearchAttribute:
    message = search_attributes_pb2.SearchAttribute()
    if value.kind == AttributeKind.TEXT:
        message.text = value.text or ""
    elif value.kind == AttributeKind.INTEGER:
        message.integer = int(value.number or 0)
    elif value.kind == AttributeKind.NUMBER:
        message.number = value.number or 0.0
    elif value.kind == AttributeKind.FLAG:
        message.flag = value.text == "true"
    elif value.time is not None:
        message.time.FromDatetime(value.time)
    return message
