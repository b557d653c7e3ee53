"""Concurrency limits between the wire and the layers below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.v1 import concurrency_pb2
from stepwell_server.api.fields import integer
from stepwell_server.errors import InvalidField
from stepwell_server.model.concurrency import Concurrency, Strategy

if TYPE_CHECKING:
    from stepwell.v1 import runs_pb2, workers_pb2
    from stepwell_server.api.fields import Fields

DEFAULT_NAME, MOST_RUNS, KEY_BYTES = "default", 10_000, 512


def concurrency_from_proto(
    request: runs_pb2.StartRunRequest | workers_pb2.ChildStep, fields: Fields, at: str = ""
) -> Concurrency | None:
    """Reads the limit that a run is started under."""
    if not request.HasField("concurrency"):
        return None
    given, path = request.concurrency, f"{at}concurrency."
    if not given.key:
        raise InvalidField(field=f"{path}key", problem=f"is required: give it 1 to {KEY_BYTES} bytes of text")
    return Concurrency(
        fields.text(given.name, "name", path) or DEFAULT_NAME,
        fields.text(given.key, "key", path, at_most=KEY_BYTES),
        integer(given.maximum_runs, "maximum_runs", path, at_most=MOST_RUNS) or 1,
        fields.member(given.strategy, concurrency_pb2.ConcurrencyStrategy, "strategy", path) or Strategy.QUEUE,
    )


def concurrency_to_proto(limit: Concurrency | None) -> concurrency_pb2.Concurrency | None:
    """Renders the limit that a run was started under."""
    if limit is None:
        return None
    return concurrency_pb2.Concurrency(
        name=limit.name,
        key=limit.key,
        maximum_runs=limit.maximum_runs,
        strategy=concurrency_pb2.ConcurrencyStrategy.ValueType(limit.strategy),
    )
