"""Search attributes: small typed values by which runs are found. Field order is column order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import IntEnum

import msgspec


class AttributeKind(IntEnum):
    """Of what kind a value is. ABSENT: the name is there, without a value."""

    ABSENT = 0
    TEXT = 1
    INTEGER = 2
    NUMBER = 3
    FLAG = 4
    TIME = 5


class AttributeValue(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A value. `text` is that of TEXT, and of FLAG `true` or `false`; `number` that of INTEGER and NUMBER."""

    kind: int
    text: str | None = None
    number: int | float | None = None
    time: datetime | None = None


class SearchAttribute(msgspec.Struct, frozen=True, gc=False):
    """A row of `search_attributes`."""

    run_key: int
    name: str
    namespace_id: int
    kind: int
    text_value: str | None
    number_value: int | float | None
    time_value: datetime | None

    @property
    def value(self) -> AttributeValue:
        """Its value, without the run."""
        return AttributeValue(self.kind, self.text_value, self.number_value, self.time_value)


Values = Mapping[str, AttributeValue]
ABSENT = AttributeValue(AttributeKind.ABSENT)
_NUMBER_BYTES = 8


def flag(value: bool) -> AttributeValue:  # noqa: FBT001 - the value itself
    """A FLAG."""
    return AttributeValue(AttributeKind.FLAG, "true" if value else "false")


def size_of(values: Values) -> int:
    """How many bytes names and values have together: text as UTF-8, any other value as 8 bytes."""
    return sum(len(name.encode()) + _size(value) for name, value in values.items())


def as_json(values: Values) -> bytes:
    """Values as people and programs read them in history: an object, times as text, what is absent as null."""
    return json.dumps({name: _plain(value) for name, value in values.items()}, ensure_ascii=False).encode()


def rows(run_key: int, namespace_id: int, values: Values) -> Iterable[SearchAttribute]:
    """The rows of a run."""
    for name, value in values.items():
        yield SearchAttribute(run_key, name, namespace_id, value.kind, value.text, value.number, value.time)


def _size(value: AttributeValue) -> int:
    return len((value.text or "").encode()) if value.kind == AttributeKind.TEXT else _NUMBER_BYTES


def _plain(value: AttributeValue) -> object:
    if value.kind == AttributeKind.FLAG:
        return value.text == "true"
    if value.time is not None:
        return value.time.isoformat()
    return value.text if value.number is None else value.number
