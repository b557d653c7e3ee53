"""Filters and orders as SQL: expressions over the columns that a list names, with every value a bound parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from operator import ge, gt, le, lt
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, and_, func, literal, not_, or_

from stepwell_server.model.filters import AttributeComparison, Comparison, Every, Filter, Not, Op, Some
from stepwell_server.model.orders import Order, SortKey

Columns = Mapping[str, ColumnElement[Any]]
Attributes = Callable[[AttributeComparison], ColumnElement[bool]]
"""How a list finds what has a search attribute: a condition that is never null."""
NEVER = datetime(9999, 12, 31, tzinfo=UTC)
"""Where in an order a time stands that has not come."""
RANGES: dict[Op, Callable[[Any, Any], Any]] = {Op.LESS: lt, Op.AT_MOST: le, Op.GREATER: gt, Op.AT_LEAST: ge}


def named(columns: Iterable[ColumnElement[Any]]) -> dict[str, ColumnElement[Any]]:
    """Columns by the names that a query gives them."""
    return {str(getattr(column, "name", "")): column for column in columns}


def _no_attributes(wanted: AttributeComparison) -> ColumnElement[bool]:
    raise TypeError(f"this list has no search attributes: {wanted.name}")


def where(wanted: Filter, columns: Columns, attributes: Attributes = _no_attributes) -> ColumnElement[bool]:
    """The filter as a condition that is true or false, and never null, so that NOT means the opposite."""
    if isinstance(wanted, Every):
        return and_(*(where(part, columns, attributes) for part in wanted.parts))
    if isinstance(wanted, Some):
        return or_(*(where(part, columns, attributes) for part in wanted.parts))
    if isinstance(wanted, Not):
        return not_(where(wanted.part, columns, attributes))
    if isinstance(wanted, AttributeComparison):
        return attributes(wanted)
    return func.coalesce(_compared(wanted, columns[wanted.field]), False)


def _compared(wanted: Comparison, column: ColumnElement[Any]) -> ColumnElement[bool]:
    if wanted.op is Op.SET:
        is_text = column.type.python_type is str
        return and_(column.is_not(None), column != "") if is_text else column.is_not(None)
    value = _bound(wanted.value, column)
    if wanted.op is Op.EQUAL:
        return column == value
    if wanted.op is Op.UNEQUAL:
        return column.is_distinct_from(value)
    if wanted.op is Op.PREFIX:
        return column.startswith(wanted.value, autoescape=True)
    if wanted.op is Op.HAS:
        return literal(wanted.value) == func.any(column)
    compared: ColumnElement[bool] = RANGES[wanted.op](column, value)
    return compared


def sorting(order: Order, columns: Columns, tie: SortKey) -> list[ColumnElement[Any]]:
    """What to sort by. The tie is what makes a place in the list unique."""
    keys = (*order, tie)
    return [columns[key.field].desc() if key.descending else columns[key.field].asc() for key in keys]


def after(order: Order, columns: Columns, tie: SortKey, place: Sequence[Any]) -> ColumnElement[bool]:
    """What comes after a place in that order: greater in one key, and equal in those before it."""
    keys = (*order, tie)
    values = [_bound(value, columns[key.field]) for key, value in zip(keys, place, strict=True)]
    alternatives = []
    for index, key in enumerate(keys):
        column, value = columns[key.field], values[index]
        equal = [columns[before.field] == values[at] for at, before in enumerate(keys[:index])]
        alternatives.append(and_(*equal, column < value if key.descending else column > value))
    return or_(*alternatives)


def _bound(value: Any, column: ColumnElement[Any]) -> ColumnElement[Any]:  # noqa: ANN401 - any kind of value
    """A bound parameter of the column's type; a number that a small column does not hold is still a number."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return literal(value, BigInteger() if is_number else column.type)
