"""Reads a request's own id, which makes its repeat safe."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from stepwell.v1 import runs_pb2
from stepwell_server.engine.starts import Conflict
from stepwell_server.model.requests import Asked

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from stepwell.v1 import jobs_pb2
    from stepwell_server.api.fields import Fields
    from stepwell_server.engine.jobs import StartedJob
    from stepwell_server.engine.starts import Started


def asked_of(request: Message, namespace_id: int | None, answer_type: Any, fields: Fields) -> Asked | None:  # noqa: ANN401
    """What names a request to be recognised when it is repeated, or None if its caller gave it no id.

    The namespace is part of the name, and the same whether it was given or left out; `-` is one of its own.
    """
    request_id = fields.text(getattr(request, "request_id", ""), "request_id")
    if not request_id:
        return None
    content: Any = type(request)()
    content.CopyFrom(request)
    content.request_id = ""
    if namespace_id:
        content.namespace = ""
    method = request.DESCRIPTOR.name.removesuffix("Request")
    body_hash = sha256(content.SerializeToString(deterministic=True)).digest()
    return Asked(request_id, namespace_id or 0, method, body_hash, answer_type)


def asked_of_start(
    request: runs_pb2.StartRunRequest | jobs_pb2.StartJobRequest,
    namespace_id: int,
    answer_type: type[Started | StartedJob],
    fields: Fields,
) -> Asked | None:
    """The same for a start, if it may be answered with what is open under its name or waits under its debounce key.

    That may have ended when it is repeated. What a start makes is found by its id, so no other start is asked for.
    """
    is_debounced = isinstance(request, runs_pb2.StartRunRequest) and request.HasField("debounce")
    uses = is_debounced or int(request.conflict_policy) == Conflict.USE_EXISTING
    return asked_of(request, namespace_id, answer_type, fields) if uses and request.request_id else None
