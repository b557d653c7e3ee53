"""Debounced starts between the wire and the layers below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.api.fields import seconds
from stepwell_server.errors import InvalidField
from stepwell_server.model.debounces import Debounce

if TYPE_CHECKING:
    from stepwell.v1 import runs_pb2
    from stepwell_server.api.fields import Fields

KEY_BYTES, SHORTEST_SECONDS = 512, 0.001


def debounce_from_proto(request: runs_pb2.StartRunRequest, fields: Fields, at: str = "") -> Debounce | None:
    """Reads with which starts a start is to be one. Refuses what would name the run in another way."""
    if not request.HasField("debounce"):
        return None
    given, path = request.debounce, f"{at}debounce."
    if not given.key:
        raise InvalidField(field=f"{path}key", problem=f"is required: give it 1 to {KEY_BYTES} bytes of text")
    period = seconds(given, "period", path, at_least=SHORTEST_SECONDS)
    if period is None:
        raise InvalidField(field=f"{path}period", problem="is required: give it more than 0 s")
    if request.workflow_id:
        raise InvalidField(field=f"{at}workflow_id", problem="must be empty with debounce: its key names the run")
    if request.HasField("start_delay"):
        raise InvalidField(field=f"{at}start_delay", problem="must be empty with debounce: its period is the delay")
    if not request.type:
        raise InvalidField(field=f"{at}type", problem="is required with debounce: keys are those of a type")
    maximum = seconds(given, "maximum_delay", path, at_least=period)
    return Debounce(fields.text(given.key, "key", path, at_most=KEY_BYTES), period, maximum)
