"""Definitions between the wire and the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from stepwell.v1 import definitions_pb2
from stepwell_server.api.fields import integer, optional_uuid
from stepwell_server.api.payloads import payload_from_proto, payload_to_proto
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.errors import InvalidField
from stepwell_server.ids import uuid7
from stepwell_server.model.definitions import GREATEST_VERSION, Definition, DefinitionRef
from stepwell_server.model.payloads import pack_payload, unpack_payload

if TYPE_CHECKING:
    from datetime import datetime

    from google.protobuf.field_mask_pb2 import FieldMask

    from stepwell_server.api.fields import Fields

CHANGEABLE = ("active", "body", "description", "metadata", "name")
_AT = "definition."
_METADATA_BYTES = 16 * 1024


def definition_from_proto(
    message: definitions_pb2.Definition, namespace_id: int, fields: Fields, now: datetime
) -> Definition:
    """Reads a definition as it is when it is created; version 0 is the next."""
    return Definition(
        namespace_id=namespace_id,
        definition_id=optional_uuid(message.definition_id, "definition_id", _AT) or uuid7(),
        code=fields.name(message.code, "code", _AT),
        version=version_from_proto(message.version, _AT),
        revision=1,
        create_time=now,
        update_time=now,
        **_said(message, fields),
    )


def changed(before: Definition, message: definitions_pb2.Definition, mask: FieldMask, fields: Fields) -> Definition:
    """The definition with what the mask names as the message says."""
    said = _said(message, fields)
    return replace(before, **{path: said[path] for path in mask.paths})


def check_mask(mask: FieldMask) -> None:
    """Refuses a mask that names nothing, or what cannot be changed."""
    known = ", ".join(CHANGEABLE)
    if not mask.paths:
        raise InvalidField(field="update_mask", problem=f"is required: name some of {known}")
    for path in mask.paths:
        if path not in CHANGEABLE:
            raise InvalidField(field="update_mask", problem=f"names {path[:64]!r}: what may be changed is {known}")


def ref_from_proto(message: Any, fields: Fields, at: str = "") -> DefinitionRef:  # noqa: ANN401 - any with these fields
    """Reads which definition is meant."""
    definition_id = optional_uuid(message.definition_id, "definition_id", at)
    if definition_id is None and not message.code:
        raise InvalidField(field=f"{at}definition_id", problem="is required, or else code")
    code = fields.text(message.code, "code", at)
    return DefinitionRef(definition_id, code, version_from_proto(message.version, at))


def ref_to_proto(ref: DefinitionRef) -> definitions_pb2.DefinitionRef:
    """Renders which definition is meant, as it was given."""
    return definitions_pb2.DefinitionRef(definition_id=str(ref.definition_id or ""), code=ref.code, version=ref.version)


def version_from_proto(value: int, at: str = "") -> int:
    """Reads a version; 0 if it is not given."""
    return integer(value, "version", at, at_most=GREATEST_VERSION)


def definition_to_proto(definition: Definition) -> definitions_pb2.Definition:
    """Renders a definition, with those of its payloads that were read."""
    return definitions_pb2.Definition(
        definition_id=str(definition.definition_id),
        code=definition.code,
        version=definition.version,
        name=definition.name,
        description=definition.description,
        body=_payload_to_proto(definition.body),
        metadata=_payload_to_proto(definition.metadata),
        active=definition.active,
        revision=definition.revision,
        create_time=time_to_proto(definition.create_time),
        update_time=time_to_proto(definition.update_time),
    )


def _said(message: definitions_pb2.Definition, fields: Fields) -> dict[str, Any]:
    metadata = pack_payload(payload_from_proto(message.metadata, fields, "metadata", _AT))
    if metadata is not None and len(metadata) > _METADATA_BYTES:
        problem = f"has {len(metadata)} bytes: give it at most {_METADATA_BYTES}"
        raise InvalidField(field=f"{_AT}metadata", problem=problem)
    return {
        "active": message.active if message.HasField("active") else True,
        "name": fields.text(message.name, "name", _AT),
        "description": fields.remark(message.description, "description", _AT),
        "body": pack_payload(payload_from_proto(message.body, fields, "body", _AT)),
        "metadata": metadata,
    }


def _payload_to_proto(packed: bytes | None) -> Any:  # noqa: ANN401 - a payload, or none
    return None if packed is None else payload_to_proto(unpack_payload(packed))
