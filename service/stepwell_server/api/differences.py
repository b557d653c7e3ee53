"""Where code and record differ, between the wire and the layers below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.v1 import repairs_pb2, types_pb2
from stepwell_server.api.fields import integer
from stepwell_server.engine.differences import AROUND
from stepwell_server.engine.fitting import fitting
from stepwell_server.errors import InvalidField
from stepwell_server.ids import ORDINALS
from stepwell_server.model.order import MadeCall

if TYPE_CHECKING:
    from stepwell.v1 import workers_pb2
    from stepwell_server.api.fields import Fields
    from stepwell_server.engine.fitting import Fit
    from stepwell_server.model.order import Difference


def difference_from_proto(
    scope: workers_pb2.ScopeState, fields: Fields, at: str
) -> tuple[int | None, tuple[MadeCall, ...]]:
    """What a worker says of where its code leaves the record: how many calls agree, and the code's from there on."""
    if not scope.HasField("difference"):
        return None, ()
    told = scope.difference
    if len(told.calls) > AROUND + 1:
        raise InvalidField(field=f"{at}calls", problem=f"holds {len(told.calls)} calls: give at most {AROUND + 1}")
    made = (_made(call, fields, f"{at}calls[{place}].") for place, call in enumerate(told.calls))
    return integer(told.agreeing, "agreeing", at, at_most=ORDINALS), tuple(made)


def _made(call: workers_pb2.MadeCall, fields: Fields, at: str) -> MadeCall:
    kind = fields.member(call.kind, types_pb2.StepKind, "kind", at, required=True)
    return MadeCall(kind, fields.name(call.name, "name", at))


def difference_to_proto(found: Difference) -> repairs_pb2.OrderDifference:
    """Renders where code and record differ in a branch."""
    shown = repairs_pb2.OrderDifference(scope=found.scope, agreeing=found.place, recorded_count=found.recorded_count)
    for place, call in enumerate(found.recorded, found.first):
        kind = types_pb2.StepKind.ValueType(call.kind)
        shown.recorded.add(
            place=place, ordinal=call.ordinal, kind=kind, name=call.name, occurrence=call.occurrence, key=call.key
        )
    for made in found.made:
        shown.made.add(kind=types_pb2.StepKind.ValueType(made.kind), name=made.name)
    shown.fitting.extend(fit_to_proto(fit) for fit in fitting(found))
    return shown


def fit_to_proto(fit: Fit) -> repairs_pb2.Repair:
    """Renders a repair that fits."""
    step = repairs_pb2.StepName(ordinal=fit.call.ordinal)
    if fit.new_name:
        return repairs_pb2.Repair(rename=repairs_pb2.Repair.Rename(step=step, new_name=fit.new_name))
    return repairs_pb2.Repair(skip=repairs_pb2.Repair.Skip(step=step))
