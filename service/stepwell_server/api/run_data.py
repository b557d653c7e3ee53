"""Data of runs between the wire and the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell_server.api.fields import integer
from stepwell_server.api.payloads import payload_from_proto, payload_to_proto
from stepwell_server.engine.run_data import MOST_NAMES, DataChange, How, parse_object
from stepwell_server.errors import InvalidField
from stepwell_server.store.run_data import EVERY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stepwell.v1 import run_store_pb2, types_pb2
    from stepwell_server.api.fields import Fields
    from stepwell_server.model.payloads import Payload

_GREATEST = 2**63 - 1
_HOW = {"set": How.SET, "merge": How.MERGE, "remove": How.REMOVE}


def changes_from_proto(
    messages: Sequence[run_store_pb2.RunDataChange], fields: Fields, *, at_least: int = 0
) -> tuple[DataChange, ...]:
    """Reads changes of data, of each name one."""
    fields.items(messages, "changes", at_least=at_least)
    changes = tuple(_change_from_proto(each, fields, place) for place, each in enumerate(messages))
    names: dict[str, int] = {}
    for each in changes:
        if names.setdefault(each.name, each.place) != each.place:
            problem = f"is named by changes[{names[each.name]}] already: give each name once"
            raise InvalidField(field=f"changes[{each.place}].name", problem=problem)
    return changes


def _change_from_proto(message: run_store_pb2.RunDataChange, fields: Fields, place: int) -> DataChange:
    at = f"changes[{place}]."
    name = _name(message.name, fields, "name", at)
    change = message.WhichOneof("change")
    if change is None or (change == "remove" and not message.remove):
        raise InvalidField(field=f"{at}change", problem="is required: set, merge, or remove, which must be true")
    if change == "remove":
        return DataChange(name, How.REMOVE, place=place)
    payload = payload_from_proto(getattr(message, change), fields, change, at)
    if change == "merge" and parse_object(payload) is None:
        raise InvalidField(field=f"{at}merge", problem="must be a JSON object, without metadata")
    return DataChange(name, _HOW[change], payload, place)


def expected_version(request: Any) -> int | None:  # noqa: ANN401 - any request with that field
    """Reads the version that the caller has seen, or None."""
    if not request.HasField("expected_version"):
        return None
    return integer(request.expected_version, "expected_version", at_most=_GREATEST)


def data_from_proto(messages: Mapping[str, types_pb2.Payload], fields: Fields) -> dict[str, Payload] | None:
    """Reads a new run's data, or None if it has none."""
    if len(messages) > MOST_NAMES:
        raise InvalidField(field="data", problem=f"has {len(messages)} names: give it at most {MOST_NAMES}")
    data = {}
    for name, message in messages.items():
        field = f"data[{name[:64]!r}]"
        data[_name(name, fields, f"{field} key")] = payload_from_proto(message, fields, field)
    return data or None


def _name(name: str, fields: Fields, field: str, at: str = "") -> str:
    if name == EVERY:
        raise InvalidField(field=at + field, problem="must not be *, which means all names")
    return fields.name(name, field, at)


def data_to_proto(data: Mapping[str, Payload]) -> dict[str, types_pb2.Payload]:
    """Renders data."""
    return {name: message for name, payload in data.items() if (message := payload_to_proto(payload)) is not None}
