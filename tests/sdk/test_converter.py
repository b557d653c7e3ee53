"""Values and payloads."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from stepwell import ConversionError
from stepwell.converter import JsonConverter, converter_with
from stepwell.v1.types_pb2 import Payload


class Colour(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: float


@dataclass
class Inner:
    when: dt.datetime
    tags: frozenset[str] = frozenset()


@dataclass
class Outer:
    inner: Inner
    inners: list[Inner] = field(default_factory=list)
    by_name: dict[str, Inner | None] = field(default_factory=dict)
    colour: Colour = Colour.RED
    number: int | str = 0


NOW = dt.datetime(2030, 5, 6, 7, 8, 9, 10, dt.UTC)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (None, int | None),
        (True, bool),
        (1.5, float),
        ("grün", str),
        (b"\0\xff", bytes),
        (NOW, dt.datetime),
        (NOW.date(), dt.date),
        (dt.timedelta(seconds=90), dt.timedelta),
        (uuid.UUID(int=7), uuid.UUID),
        (Colour.RED, Colour),
        (Point(1, 2.5), Point),
        ((1, "a"), tuple[int, str]),
        ((1, 2, 3), tuple[int, ...]),
        ({1, 2}, set[int]),
        ([Inner(NOW), None], list[Inner | None]),
        ({"a": [1]}, dict[str, list[int]]),
        ({"free": [1, {"x": None}]}, None),
        (Outer(Inner(NOW, frozenset("a")), [Inner(NOW)], {"n": None, "i": Inner(NOW)}, Colour.RED, "x"), Outer),
    ],
)
def test_round_trip(value: object, hint: Any) -> None:
    """What the hint says comes out."""
    converter = JsonConverter()
    made = converter.from_payload(converter.to_payload(value), hint)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize("value", [object(), float("nan"), {1j: 2}])
def test_what_is_not_json_is_refused(value: object) -> None:
    """With what to do, where there is something."""
    with pytest.raises(ConversionError):
        JsonConverter().to_payload(value)


def test_what_does_not_fit_is_refused() -> None:
    """A payload of another form raises one error."""
    with pytest.raises(ConversionError):
        JsonConverter().from_payload(Payload(json='{"inner": 5}'), Outer)
    with pytest.raises(ConversionError):
        JsonConverter().from_payload(Payload(json="not json"), None)


class Turned:
    """A codec for the eye only."""

    name = "turned"

    def encode(self, data: bytes) -> bytes:
        return data[::-1]

    def decode(self, data: bytes) -> bytes:
        return data[::-1]


def test_a_codec_changes_the_bytes_and_nothing_else() -> None:
    """Null has no bytes; what was written before the codec is still read."""
    converter = converter_with(None, Turned())
    payload = converter.to_payload({"secret": 1})
    assert b"secret" not in payload.SerializeToString()
    assert converter.from_payload(payload) == {"secret": 1}
    assert converter.from_payload(converter.to_payload(b"ab")) == b"ab"
    assert converter.to_payload(None) == Payload()
    assert converter.from_payload(Payload(json="3")) == 3


def test_without_the_codec_the_bytes_are_refused() -> None:
    """They are not handed out as if they were the value."""
    payload = converter_with(None, Turned()).to_payload(1)
    with pytest.raises(ConversionError, match="codec"):
        converter_with(None, None).from_payload(payload)
