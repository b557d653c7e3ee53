"""RunService: patching the search attributes of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import search_attributes_pb2
from stepwell_server.api.interceptors.deadlines import remaining
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_starts import size_of
from stepwell_server.api.search_attributes import attributes_from_proto, attributes_to_proto
from stepwell_server.engine.search_attributes import Attributed, UpsertSearchAttributes
from stepwell_server.errors import InvalidField

if TYPE_CHECKING:
    from stepwell_server.api.fields import Fields
    from stepwell_server.api.run_values import RunRefs
    from stepwell_server.engine.committer import Committers

    Context = grpc.aio.ServicerContext[Any, Any]


class RunAttributes:
    """That part of RunService."""

    _committers: Committers
    _fields: Fields
    _refs: RunRefs

    async def UpsertSearchAttributes(
        self, request: search_attributes_pb2.UpsertSearchAttributesRequest, context: Context
    ) -> search_attributes_pb2.UpsertSearchAttributesResponse:
        patch = attributes_from_proto(request.attributes, self._fields, "attributes")
        if not patch:
            raise InvalidField(field="attributes", problem="is required: name at least one attribute")
        command = UpsertSearchAttributes(await self._refs.read(request), patch, request.keep_absent)
        asked = asked_of(request, command.ref.namespace_id, Attributed, self._fields)
        answer = await self._committers.do(Attributed, command, size_of(request), remaining(), asked)
        return search_attributes_pb2.UpsertSearchAttributesResponse(
            run_id=str(answer.run_id), changed=answer.changed, attributes=attributes_to_proto(answer.attributes)
        )
