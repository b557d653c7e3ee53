"""What a filter compares a search attribute with. Runs may give one name values of several kinds: the value tells.

Text in quotes is text, and where it says a time, a time, too; without quotes, a number is a number, `true` and `false`
are flags, and any other word is text.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal

from stepwell_server.model.filters import ANY_ATTRIBUTE, AttributeComparison, Op
from stepwell_server.model.search_attributes import AttributeKind

PREFIX = ANY_ATTRIBUTE.removesuffix("*")
"""What stands before an attribute's name in a filter."""
_DECIMAL = re.compile(r"[-+]?\d{1,40}(?:\.\d{1,40})?(?:[eE][-+]?\d{1,3})?")
_RANGES = frozenset({Op.LESS, Op.AT_MOST, Op.GREATER, Op.AT_LEAST})


class NotCompared(Exception):  # noqa: N818 - says what the value is not
    """Of no kind that is compared so. Holds what was expected."""


def compared(name: str, op: Op, plain: str, time: datetime | None, *, quoted: bool) -> AttributeComparison:
    """A comparison with a value that a filter wrote; `time` is what it says if it says one. Raises NotCompared."""
    if not quoted and _DECIMAL.fullmatch(plain):
        return AttributeComparison(name, op, ((AttributeKind.NUMBER, Decimal(plain)),))
    kinds: list[tuple[int, str | Decimal | datetime]] = []
    if time is not None:
        kinds.append((AttributeKind.TIME, time.astimezone(UTC)))
    if op in _RANGES:
        if not kinds:
            raise NotCompared('a number, or a time in quotes, such as "2026-01-31T00:00:00Z"')
        return AttributeComparison(name, op, tuple(kinds))
    is_flag = not quoted and plain in {"true", "false"}
    kinds.append((AttributeKind.FLAG if is_flag else AttributeKind.TEXT, plain))
    return AttributeComparison(name, op, tuple(kinds))
