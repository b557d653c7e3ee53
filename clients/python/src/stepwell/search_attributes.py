"""Search attributes: small typed values by which runs are found.

handle = await client.start_run(survey, search_attributes={"env": "prod", "score": 0.9})
async for run in client.list_runs(filter='attribute.env = "prod" AND attribute.score > 0.5'):
    print(values_of(run.search_attributes))
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING

from stepwell.v1.search_attributes_pb2 import SearchAttribute

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

Value = str | bool | int | float | dt.datetime | None
"""What an attribute may be. `None` is no value: in a patch it takes the name away."""


def spelled(values: Mapping[str, Value]) -> dict[str, SearchAttribute]:
    """Spells values by name. Times without a zone are UTC. Raises `TypeError` for what is no attribute's value."""
    return {name: _spelled(name, value) for name, value in values.items()}


def values_of(attributes: Mapping[str, SearchAttribute]) -> dict[str, Value]:
    """Gives attributes as the service answers them as values by name, in the order of the names."""
    return {name: _value_of(attributes[name]) for name in sorted(attributes)}


def _spelled(name: str, value: Value) -> SearchAttribute:
    if value is None:
        return SearchAttribute()
    if isinstance(value, bool):
        return SearchAttribute(flag=value)
    if isinstance(value, str):
        return SearchAttribute(text=value)
    if isinstance(value, int):
        return SearchAttribute(integer=value)
    if isinstance(value, float):
        return SearchAttribute(number=value)
    if isinstance(value, dt.datetime):
        spelled_time = SearchAttribute()
        spelled_time.time.FromDatetime(value)
        return spelled_time
    raise TypeError(f"{name}: a search attribute is text, a number, a flag, a time or None, not {type(value).__name__}")


def _value_of(attribute: SearchAttribute) -> Value:
    which = attribute.WhichOneof("value")
    if which is None:
        return None
    if which == "time":
        stamp: Timestamp = attribute.time
        return stamp.ToDatetime(dt.UTC)
    value: Value = getattr(attribute, which)
    return value
