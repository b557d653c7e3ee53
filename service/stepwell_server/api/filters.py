"""Reads `filter` and `order_by`: a part of AIP-160, and AIP-132.

    filter     = joined | nothing
    joined     = term { AND term } | term { OR term }        AND and OR mix only in parentheses
    term       = NOT term | "(" joined ")" | field op value
    op         = "=" | "!=" | "<" | "<=" | ">" | ">=" | ":"
    value      = word | text in quotes, which a `*` at the end makes a prefix | "*" after ":", for whatever is set

A field may be a search attribute, `attribute.` and its name: see `attribute_filters`.

The fields are a closed list's, each with its kind; values are typed here, so that no text of a caller's goes further
than into a bound parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple, NoReturn
from uuid import UUID

from stepwell_server.api import attribute_filters
from stepwell_server.api.search_attributes import NAME, TEXT_BYTES
from stepwell_server.errors import InvalidField
from stepwell_server.model.filters import (
    ANY_ATTRIBUTE,
    AttributeComparison,
    Comparison,
    Every,
    Fields,
    Filter,
    Kind,
    Not,
    Op,
    Some,
)
from stepwell_server.model.orders import Order, SortKey
from stepwell_server.model.search_attributes import AttributeKind
from stepwell_server.settings import Limits

_CHARACTERS, _DEPTH, _COMPARISONS, _SORT_KEYS = 4_096, 16, 64, 4
_TOKEN = re.compile(
    r"""
    (?P<text> "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' )
    | (?P<op> <= | >= | != | [=<>:] )
    | (?P<mark> [()] )
    | (?P<word> [A-Za-z0-9_.+*/@#-]+ )
    """,
    re.VERBOSE,
)
_SPACE = re.compile(r"[ \t\r\n]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ESCAPE = re.compile(r"\\(.)")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:[Zz]|[+-]\d{2}:\d{2})")
_NUMBER = re.compile(r"-?\d{1,19}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_GREATEST = 2**63 - 1
_KEYWORDS = frozenset({"AND", "OR", "NOT"})
_EQUALITY = frozenset({Op.EQUAL, Op.UNEQUAL})
_RANGES = _EQUALITY | {Op.LESS, Op.AT_MOST, Op.GREATER, Op.AT_LEAST}
_OPS = {
    Kind.TEXT: _EQUALITY,
    Kind.UUID: _EQUALITY,
    Kind.NUMBER: _RANGES,
    Kind.TIME: _RANGES,
    Kind.MEMBER: _EQUALITY,
    Kind.FLAG: _EQUALITY,
    Kind.TEXTS: frozenset({Op.HAS}),
}


_PYTHON: dict[Kind, type] = {
    Kind.TEXT: str,
    Kind.UUID: UUID,
    Kind.NUMBER: int,
    Kind.TIME: datetime,
    Kind.MEMBER: int,
    Kind.FLAG: bool,
}


class _Token(NamedTuple):
    kind: str
    text: str
    place: int


def read_filter(text: str, fields: Fields, limits: Limits, field: str = "filter") -> Filter | None:
    """The filter that a text says, or None if it is empty."""
    return _Reader(text, fields, limits, field).filter()


def read_order(text: str, fields: Fields, field: str = "order_by") -> Order:
    """The order that a text says: fields with commas between, each with `desc` behind it or not."""
    keys: list[SortKey] = []
    for part in text.split(",") if text.strip() else ():
        name, *direction = part.split()[:3] or [""]
        if name not in fields or not fields[name].is_sortable:
            known = ", ".join(sorted(name for name, each in fields.items() if each.is_sortable))
            raise InvalidField(field=field, problem=f"names {name[:64]!r}, by which this list does not sort: {known}")
        if direction not in ([], ["asc"], ["desc"]):
            raise InvalidField(field=field, problem=f"has {part.strip()[:64]!r}: only `desc` may stand behind a field")
        if any(key.field == name for key in keys) or len(keys) == _SORT_KEYS:
            raise InvalidField(field=field, problem=f"may name each field once, and at most {_SORT_KEYS}")
        keys.append(SortKey(name, direction == ["desc"]))
    return tuple(keys)


def position_of(order: Order, fields: Fields, tie: type) -> type[tuple[Any, ...]]:
    """Of what types a place in that order is: the values that are sorted by, and what tells equals apart."""
    types = [_PYTHON[fields[key.field].kind] for key in order]
    position: Any = tuple.__class_getitem__((*types, tie))
    return position  # type: ignore[no-any-return]


class _Reader:
    def __init__(self, text: str, fields: Fields, limits: Limits, field: str) -> None:
        if len(text) > _CHARACTERS:
            problem = f"is too long at character {_CHARACTERS + 1}: it has {len(text)} characters, so shorten it"
            raise InvalidField(field=field, problem=problem)
        self._text, self._fields, self._limits, self._field = text, fields, limits, field
        self._tokens = list(self._split())
        self._next = 0
        self._comparisons = 0

    def filter(self) -> Filter | None:
        if self._token.kind == "end":
            return None
        read = self._joined(0)
        if self._token.kind != "end":
            self._expected("AND, OR or the end")
        return read

    def _split(self) -> Iterator[_Token]:
        place = self._spaced(0)
        while place < len(self._text):
            found = _TOKEN.match(self._text, place)
            if found is None:
                opens = self._text[place] in "\"'"
                self._refuse(place, "the quote is never closed" if opens else "this character means nothing here")
            yield _Token(found.lastgroup or "", found.group(), place)
            place = self._spaced(found.end())
        yield _Token("end", "", len(self._text))

    def _spaced(self, place: int) -> int:
        found = _SPACE.match(self._text, place)
        return found.end() if found is not None else place

    # --- the grammar ------------------------------------------------------------------------------------------------

    def _joined(self, depth: int) -> Filter:
        parts, joint = [self._term(depth)], ""
        while (word := self._keyword()) in ("AND", "OR"):
            if joint not in ("", word):
                self._expected("parentheses: AND and OR are not mixed without them")
            joint = word
            self._take()
            parts.append(self._term(depth))
        if not joint:
            return parts[0]
        return Every(tuple(parts)) if joint == "AND" else Some(tuple(parts))

    def _term(self, depth: int) -> Filter:
        if depth > _DEPTH:
            self._refuse(self._token.place, f"more than {_DEPTH} parentheses and NOTs are open")
        if self._keyword() == "NOT":
            self._take()
            return Not(self._term(depth + 1))
        if self._token.text == "(" and self._token.kind == "mark":
            self._take()
            read = self._joined(depth + 1)
            if self._token.kind != "mark" or self._token.text != ")":
                self._expected("AND, OR or a closing parenthesis")
            self._take()
            return read
        return self._comparison()

    def _comparison(self) -> Filter:
        name = self._token
        if name.kind != "word" or name.text in _KEYWORDS:
            self._expected("a field, NOT or an opening parenthesis")
        if name.text.startswith(attribute_filters.PREFIX) and ANY_ATTRIBUTE in self._fields:
            attribute = self._attribute(name)
        elif name.text not in self._fields:
            self._refuse(name.place, f"{name.text[:64]!r} is no field of this list, but {', '.join(self._fields)}")
        else:
            attribute = ""
        self._take()
        mark = self._token
        if mark.kind != "op":
            self._expected("one of =, !=, <, <=, >, >= and :")
        self._take()
        value = self._token
        if value.kind not in ("word", "text") or self._keyword():
            self._expected("a value")
        self._take()
        self._comparisons += 1
        if self._comparisons > _COMPARISONS:
            self._refuse(name.place, f"there are more than {_COMPARISONS} comparisons")
        return self._of_attribute(attribute, mark, value) if attribute else self._typed(name.text, mark, value)

    def _attribute(self, name: _Token) -> str:
        attribute = name.text.removeprefix(attribute_filters.PREFIX)
        if not NAME.fullmatch(attribute):
            self._refuse(name.place, "behind `attribute.` stand 1 to 64 letters, digits, '_', '-' and '.'")
        return attribute

    # --- values -----------------------------------------------------------------------------------------------------

    def _typed(self, name: str, mark: _Token, value: _Token) -> Filter:
        kind, op = self._fields[name].kind, Op(mark.text)
        if op is Op.HAS and value == ("word", "*", value.place):
            return Comparison(name, Op.SET)
        if op not in _OPS[kind]:
            allowed = ", ".join(sorted(each.value for each in _OPS[kind]))
            self._refuse(mark.place, f"{name} is compared by {allowed}, or by :* if it may be absent")
        if kind in (Kind.TEXT, Kind.TEXTS):
            return self._of_text(name, op, value)
        plain = self._plain(value)
        if kind is Kind.NUMBER:
            return Comparison(name, op, self._number(value.place, plain))
        if kind is Kind.TIME:
            return Comparison(name, op, self._time(value.place, plain))
        if kind is Kind.UUID:
            if not _UUID.fullmatch(plain):
                self._refuse(value.place, "expected a UUID")
            return Comparison(name, op, UUID(plain))
        members = self._fields[name].members if kind is Kind.MEMBER else {"true": 1, "false": 0}
        member = plain.removeprefix(self._fields[name].prefix)
        if member not in members:
            self._refuse(value.place, f"expected one of {', '.join(members)}")
        return Comparison(name, op, bool(members[member]) if kind is Kind.FLAG else members[member])

    def _of_attribute(self, name: str, mark: _Token, value: _Token) -> Filter:
        op, plain = Op(mark.text), self._short(value, TEXT_BYTES)
        if op is Op.HAS:
            if value.text != "*":
                self._refuse(value.place, f"expected *: {attribute_filters.PREFIX}{name}:* holds where it is set")
            return AttributeComparison(name, Op.SET)
        if op in _EQUALITY and _is_prefix(value):
            begins = AttributeComparison(name, Op.PREFIX, ((AttributeKind.TEXT, plain[:-1]),))
            return begins if op is Op.EQUAL else Not(begins)
        quoted = value.kind == "text"
        try:
            time = _parsed_time(plain) if quoted else None
            return attribute_filters.compared(name, op, plain, time, quoted=quoted)
        except attribute_filters.NotCompared as expected:
            self._refuse(value.place, f"expected {expected}")

    def _short(self, value: _Token, most: int) -> str:
        """The text of a value, if it is of no more bytes and without control characters."""
        plain = self._plain(value)
        if _CONTROL.search(plain) or len(plain.encode(errors="replace")) > most:
            self._refuse(value.place, f"expected at most {most} bytes without control characters")
        return plain

    def _of_text(self, name: str, op: Op, value: _Token) -> Filter:
        plain = self._short(value, self._limits.id_bytes)
        if op is Op.HAS or not _is_prefix(value):
            return Comparison(name, op, plain)
        begins = Comparison(name, Op.PREFIX, plain[:-1])
        return begins if op is Op.EQUAL else Not(begins)

    def _number(self, place: int, plain: str) -> int:
        number = int(plain) if _NUMBER.fullmatch(plain) else None
        if number is None or abs(number) > _GREATEST:
            self._refuse(place, "expected a whole number")
        return number

    def _time(self, place: int, plain: str) -> datetime:
        time = _parsed_time(plain)
        if time is None:
            self._refuse(place, 'expected a time in quotes, such as "2026-01-31T00:00:00Z"')
        return time

    def _plain(self, token: _Token) -> str:
        """The text of a value without its quotes and escapes."""
        if token.kind == "word":
            return token.text
        for found in _ESCAPE.finditer(token.text):
            if found.group(1) not in "\"'\\*":
                self._refuse(token.place + found.start(), "a backslash stands before a quote, a star or a backslash")
        return _ESCAPE.sub(r"\1", token.text[1:-1])

    # --- tokens -----------------------------------------------------------------------------------------------------

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> None:
        self._next += 1

    def _keyword(self) -> str:
        token = self._token
        return token.text if token.kind == "word" and token.text in _KEYWORDS else ""

    def _expected(self, what: str) -> NoReturn:
        found = repr(self._token.text[:64]) if self._token.kind != "end" else "the end"
        self._refuse(self._token.place, f"expected {what}, and found {found}")

    def _refuse(self, place: int, problem: str) -> NoReturn:
        raise InvalidField(field=self._field, problem=f"is not understood at character {place + 1}: {problem}")


def _is_prefix(value: _Token) -> bool:
    """Whether a value ends in a star that no backslash takes back."""
    text = value.text if value.kind == "word" else value.text[1:-1]
    stars = re.search(r"(\\*)\*$", text)
    return stars is not None and (value.kind == "word" or len(stars.group(1)) % 2 == 0)


def _parsed_time(plain: str) -> datetime | None:
    if not _TIME.fullmatch(plain):
        return None
    try:
        return datetime.fromisoformat(plain.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
