"""Comparisons with search attributes as SQL: what a list of runs asks of their attributes, along an index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, ColumnElement, Numeric, and_, exists, literal, not_, or_
from sqlalchemy import select as select_

from stepwell_server.model.filters import AttributeComparison, Op
from stepwell_server.model.search_attributes import AttributeKind
from stepwell_server.store.filters import RANGES, Attributes
from stepwell_server.store.schema import SEARCH_ATTRIBUTES

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

_COLUMNS = {
    AttributeKind.TEXT: SEARCH_ATTRIBUTES.c.text_value,
    AttributeKind.FLAG: SEARCH_ATTRIBUTES.c.text_value,
    AttributeKind.NUMBER: SEARCH_ATTRIBUTES.c.number_value,
    AttributeKind.TIME: SEARCH_ATTRIBUTES.c.time_value,
}


def having(namespace_id: int, run_key: ColumnElement[int], before: int | None = None) -> Attributes:
    """How a run in that column is asked for an attribute.

    A semi-join, which begins at the run or at the index of the values, whichever is less: the index gives the runs of
    one value in the order of their keys. `before` is the key from which a list goes down, so that a later page does not
    walk what the earlier ones showed.
    """

    def condition(wanted: AttributeComparison) -> ColumnElement[bool]:
        if wanted.op is Op.UNEQUAL:
            return not_(condition(AttributeComparison(wanted.name, Op.EQUAL, wanted.values)))
        table = SEARCH_ATTRIBUTES
        conditions = [
            table.c.run_key == run_key,
            table.c.namespace_id == namespace_id,
            table.c.name == wanted.name,
            _compared(wanted),
        ]
        if before is not None:
            conditions.append(table.c.run_key < literal(before, BigInteger()))
        return exists(select_(literal(1)).where(*conditions).correlate(run_key.table))

    return condition


def _compared(wanted: AttributeComparison) -> ColumnElement[bool]:
    if wanted.op is Op.SET:
        return SEARCH_ATTRIBUTES.c.kind != AttributeKind.ABSENT
    return or_(*(_as(AttributeKind(kind), wanted.op, value) for kind, value in wanted.values))


def _as(kind: AttributeKind, op: Op, value: str | Decimal | datetime) -> ColumnElement[bool]:
    column: ColumnElement[Any] = _COLUMNS[kind]
    if op is Op.PREFIX:
        begins = column.startswith(value, autoescape=True)
        return and_(begins, SEARCH_ATTRIBUTES.c.kind == kind)
    bound = literal(value, Numeric() if kind is AttributeKind.NUMBER else column.type)
    compared: ColumnElement[bool] = column == bound if op is Op.EQUAL else RANGES[op](column, bound)
    if kind is AttributeKind.TEXT or kind is AttributeKind.FLAG:
        return and_(compared, SEARCH_ATTRIBUTES.c.kind == kind)
    return compared
