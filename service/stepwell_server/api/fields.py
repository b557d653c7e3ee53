"""What a request's fields may hold, checked where they come in.

Each check answers the value as the layers below use it, or raises a refusal that names the field by its path in the
request and says what to do. `at` is the path before the field, such as `requests[3].`; it is joined only when something
is wrong. The usual value, short ASCII text, passes after two looks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from stepwell_server.errors import InvalidField
from stepwell_server.ids import ANY_ID, MAIN, IdEnding, Namespace
from stepwell_server.settings import Limits

Item = TypeVar("Item")

ANY = Namespace("-")
LONGEST_SECONDS = 10 * 366 * 86_400
"""Ten years: no timeout or delay is longer."""
REMARK_BYTES = 4_096
"""Reasons and other words for people."""

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_ID_ENDING = re.compile(r"[0-9a-fA-F]{1,6}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A century before the calendar ends: a time with the longest of delays behind it must still be one.
_YEAR_9900 = 250_246_627_200
_NANOS = 1_000_000_000
_KEY_BYTES = 64


class Enum(Protocol):
    """A generated enum."""

    def values(self) -> list[Any]:
        """All its numbers."""
        ...


class Fields:
    """The checks, under the limits that are set."""

    __slots__ = ("_enums", "limits")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._enums: dict[int, tuple[Enum, frozenset[int]]] = {}

    def name(self, value: str, field: str, at: str = "") -> str:
        """A required id or name."""
        if not value:
            raise InvalidField(field=at + field, problem="is required: give it 1 to 255 bytes of text")
        return self.text(value, field, at)

    def text(self, value: str, field: str, at: str = "", *, at_most: int | None = None) -> str:
        """An id or a name that may be empty, as long as ids may be unless a bound of its own is given."""
        at_most = self.limits.id_bytes if at_most is None else at_most
        if len(value) <= at_most and value.isascii() and (value.isprintable() or not value):
            return value
        return _checked(value, field, at, at_most, _CONTROL)

    def remark(self, value: str, field: str, at: str = "") -> str:
        """Words for people, perhaps of several lines."""
        if len(value) <= REMARK_BYTES and value.isascii() and value.isprintable():
            return value
        return _checked(value, field, at, REMARK_BYTES, _CONTROL_BUT_LINES)

    def names(self, values: Sequence[str], field: str, at: str = "", *, at_least: int = 0) -> tuple[str, ...]:
        """Names without repetition, in their order."""
        self.items(values, field, at, at_least=at_least)
        checked = (self.name(value, f"{field}[{index}]", at) for index, value in enumerate(values))
        return tuple(dict.fromkeys(checked))

    def namespace(self, value: str, field: str = "namespace", at: str = "") -> Namespace:
        """The namespace meant; `main` if none is named."""
        if not value or value == MAIN:
            return MAIN
        if value == ANY:
            raise InvalidField(field=at + field, problem="must be one namespace: this call takes no '-'")
        if len(value) > self.limits.id_bytes or not _NAMESPACE.fullmatch(value):
            problem = f"must be 1 to {self.limits.id_bytes} letters, digits, '-', '_' and '.'"
            raise InvalidField(field=at + field, problem=problem)
        return Namespace(value)

    def any_namespace(self, value: str, field: str = "namespace", at: str = "") -> Namespace | None:
        """The namespace meant, or None for `-`: any."""
        return None if value == ANY else self.namespace(value, field, at)

    def member(self, value: int, enum: Enum, field: str, at: str = "", *, required: bool = False) -> int:
        """A number of an enum; 0 only where it need not be set."""
        known = self._enums.get(id(enum))
        if known is None:
            # Holding the enum keeps its id from being given to another.
            known = self._enums[id(enum)] = (enum, frozenset(enum.values()))
        if value not in known[1]:
            raise InvalidField(field=at + field, problem=f"is {value}, which is not one of its values")
        if required and not value:
            raise InvalidField(field=at + field, problem="is required: name one of its values")
        return value

    def items(self, values: Sequence[Item], field: str, at: str = "", *, at_least: int = 0) -> Sequence[Item]:
        """As many as one message may hold."""
        count, at_most = len(values), self.limits.message_items
        if count > at_most:
            problem = f"holds {count} items, and a message at most {at_most}: send more messages"
            raise InvalidField(field=at + field, problem=problem)
        if count < at_least:
            raise InvalidField(field=at + field, problem=f"must hold at least {at_least}")
        return values

    def attributes(self, values: dict[str, str], field: str, at: str = "", *, at_most: int = 16) -> dict[str, str]:
        """A small map of text."""
        if len(values) > at_most:
            raise InvalidField(field=at + field, problem=f"has {len(values)} entries: give it at most {at_most}")
        for key, value in values.items():
            self.name(key, f"{field} key", at)
            self.text(value, f"{field}[{key!r}]", at)
        return values


def uuid(value: str, field: str, at: str = "") -> UUID:
    """A required UUID."""
    if not _UUID.fullmatch(value):
        problem = "must be a UUID, such as 01890a5d-ac96-774b-bcce-b302099a8057" if value else "is required: a UUID"
        raise InvalidField(field=at + field, problem=problem)
    return UUID(value)


def fairness_key(value: str, fields: Fields, at: str = "") -> str | None:
    """Whose turn tasks take; None if nobody's."""
    if len(value) > _KEY_BYTES or not value.isascii():
        length = len(value.encode(errors="replace"))
        if length > _KEY_BYTES:
            raise InvalidField(field=f"{at}fairness_key", problem=f"has {length} bytes: give it at most {_KEY_BYTES}")
    return fields.text(value, "fairness_key", at) or None


def optional_uuid(value: str, field: str, at: str = "") -> UUID | None:
    """A UUID, or None if empty."""
    return uuid(value, field, at) if value else None


def id_ending(value: str, field: str) -> IdEnding:
    """How ids end that are meant: any, if it is empty."""
    if value and not _ID_ENDING.fullmatch(value):
        raise InvalidField(field=field, problem="must be the last 1 to 6 hexadecimal digits of an id, such as 8057")
    return IdEnding(len(value), int(value, 16)) if value else ANY_ID


def integer(value: int, field: str, at: str = "", *, at_least: int = 0, at_most: int) -> int:
    """A number in its range."""
    if not at_least <= value <= at_most:
        raise InvalidField(field=at + field, problem=f"is {value}: it must be {at_least} to {at_most}")
    return value


def seconds(
    message: Any,  # noqa: ANN401 - any generated message
    field: str,
    at: str = "",
    *,
    at_least: float = 0.0,
    at_most: float = LONGEST_SECONDS,
) -> float | None:
    """A duration in seconds, or None if it is absent from its message."""
    if not message.HasField(field):
        return None
    duration: Duration = getattr(message, field)
    value = duration.seconds + duration.nanos / _NANOS
    if not at_least <= value <= at_most:
        problem = f"is {value:g} s: it must be {at_least:g} to {at_most:.0f} s"
        raise InvalidField(field=at + field, problem=problem)
    return value


def time(message: Any, field: str, at: str = "") -> datetime | None:  # noqa: ANN401 - any generated message
    """A time, or None if it is absent from its message. The database keeps microseconds."""
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    if not 0 <= stamp.seconds < _YEAR_9900 or not 0 <= stamp.nanos < _NANOS:
        raise InvalidField(field=at + field, problem="must be a time from 1970 to 9899")
    return _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1_000)


def _checked(value: str, field: str, at: str, at_most: int, forbidden: re.Pattern[str]) -> str:
    length = len(value.encode())
    if length > at_most:
        raise InvalidField(field=at + field, problem=f"has {length} bytes: give it at most {at_most}")
    found = forbidden.search(value)
    if found is not None:
        problem = f"holds the control character U+{ord(found.group()):04X}: leave it out"
        raise InvalidField(field=at + field, problem=problem)
    return value
