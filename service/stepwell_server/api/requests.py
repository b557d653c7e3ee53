"""Reads a request's own id, which makes its repeat safe."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from stepwell_server.model.requests import Asked

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from stepwell_server.api.fields import Fields


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
