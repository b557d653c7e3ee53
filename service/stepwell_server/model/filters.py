"""What a list may be filtered by: its fields with their kinds, and a filter that was read.

A filter compares typed values and joins the comparisons; it holds no text that anybody would have to read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum, IntEnum, auto
from uuid import UUID

import msgspec


class Kind(Enum):
    """Of what kind a field's values are."""

    TEXT = auto()
    UUID = auto()
    NUMBER = auto()
    TIME = auto()
    MEMBER = auto()
    FLAG = auto()
    TEXTS = auto()
    ATTRIBUTE = auto()  # a search attribute: the field's name goes on with the attribute's


class Op(Enum):
    """How a field is compared with a value. PREFIX, HAS and SET are for text, for lists, and for what may be absent."""

    EQUAL = "="
    UNEQUAL = "!="
    LESS = "<"
    AT_MOST = "<="
    GREATER = ">"
    AT_LEAST = ">="
    PREFIX = "*"
    HAS = ":"
    SET = ":*"


class Field(msgspec.Struct, frozen=True):
    """A field of a list. `members` are an enum's, by name; the protocol's names have `prefix` before them."""

    kind: Kind
    members: Mapping[str, int] = {}
    prefix: str = ""
    is_sortable: bool = False


class Comparison(msgspec.Struct, frozen=True):
    """One field against one value. What is not set fits no comparison but UNEQUAL."""

    field: str
    op: Op
    value: str | UUID | int | datetime | bool | None = None


class AttributeComparison(msgspec.Struct, frozen=True):
    """One search attribute against one value, as which it may be understood in more than one way: kinds with values.

    For SET there is none. INTEGER and NUMBER are one kind: NUMBER. What is not set fits no comparison but UNEQUAL.
    """

    name: str
    op: Op
    values: tuple[tuple[int, str | Decimal | datetime], ...] = ()


class Every(msgspec.Struct, frozen=True):
    """All parts fit."""

    parts: tuple[Filter, ...]


class Some(msgspec.Struct, frozen=True):
    """At least one part fits."""

    parts: tuple[Filter, ...]


class Not(msgspec.Struct, frozen=True):
    """The part does not fit."""

    part: Filter


Filter = Comparison | AttributeComparison | Every | Some | Not
Fields = Mapping[str, Field]

TEXT, SORTED_TEXT = Field(Kind.TEXT), Field(Kind.TEXT, is_sortable=True)
NUMBER, SORTED_NUMBER = Field(Kind.NUMBER), Field(Kind.NUMBER, is_sortable=True)
TIME, SORTED_TIME = Field(Kind.TIME), Field(Kind.TIME, is_sortable=True)
ID, FLAG, TEXTS = Field(Kind.UUID), Field(Kind.FLAG), Field(Kind.TEXTS)
ATTRIBUTE, ANY_ATTRIBUTE = Field(Kind.ATTRIBUTE), "attribute.*"
"""Search attributes, and how a list's fields name them; in a filter the attribute's name stands for the star."""


def member_of(enum: type[IntEnum], prefix: str, *, is_sortable: bool = False) -> Field:
    """A field whose values are an enum's, written by their names, with the protocol's prefix or without."""
    return Field(Kind.MEMBER, {member.name: int(member) for member in enum}, prefix, is_sortable)
