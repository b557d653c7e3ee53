"""DefinitionService."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import definitions_pb2, definitions_pb2_grpc
from stepwell_server.api.definition_values import (
    changed,
    check_mask,
    definition_from_proto,
    definition_to_proto,
    ref_from_proto,
)
from stepwell_server.api.fields import Fields, integer
from stepwell_server.api.filters import position_of, read_filter, read_order
from stepwell_server.api.page import read_page
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_values import MESSAGE_MARGIN
from stepwell_server.errors import DefinitionChanged, DefinitionNotFound
from stepwell_server.model.definitions import LISTED, Definition, DefinitionRef
from stepwell_server.store import definitions as store
from stepwell_server.store.definitions import BY_CODE, LATEST_FIRST, Activated, Wanted

if TYPE_CHECKING:
    from stepwell_server.clock import Clock
    from stepwell_server.model.orders import Order
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]

P = definitions_pb2
_GREATEST = 2**63 - 1


class DefinitionCalls(definitions_pb2_grpc.DefinitionServiceServicer):
    """Keeps definitions."""

    def __init__(self, database: Database, namespaces: Namespaces, clock: Clock, settings: Settings) -> None:
        self._database = database
        self._namespaces = namespaces
        self._clock = clock
        self._fields = Fields(settings.limits)

    async def CreateDefinition(
        self, request: P.CreateDefinitionRequest, context: Context
    ) -> P.CreateDefinitionResponse:
        namespace, now = self._fields.namespace(request.namespace), self._clock.now()
        namespace_id = await self._namespaces.id_of(namespace)
        new = definition_from_proto(request.definition, namespace_id, self._fields, now)
        asked = asked_of(request, namespace_id, Definition, self._fields)
        made = await store.create(self._database, new, namespace, now, asked)
        return P.CreateDefinitionResponse(definition=definition_to_proto(made))

    async def GetDefinition(self, request: P.GetDefinitionRequest, context: Context) -> P.GetDefinitionResponse:
        ref = ref_from_proto(request, self._fields)
        found = await store.find(self._database, await self._space(request), ref, active_only=request.active_only)
        if found is None:
            raise self._absent(request, ref)
        return P.GetDefinitionResponse(definition=definition_to_proto(found))

    async def ListDefinitions(self, request: P.ListDefinitionsRequest, context: Context) -> P.ListDefinitionsResponse:
        order = read_order(request.order_by, LISTED) or BY_CODE
        wanted = Wanted(
            await self._space(request),
            active_only=request.active_only,
            where=read_filter(request.filter, LISTED, self._fields.limits),
        )
        found, token = await self._page(request, wanted, order)
        return P.ListDefinitionsResponse(definitions=found, next_page_token=token)

    async def ListDefinitionVersions(
        self, request: P.ListDefinitionVersionsRequest, context: Context
    ) -> P.ListDefinitionVersionsResponse:
        wanted = Wanted(await self._space(request), code=self._fields.name(request.code, "code"))
        found, token = await self._page(request, wanted, LATEST_FIRST)
        return P.ListDefinitionVersionsResponse(definitions=found, next_page_token=token)

    async def SearchDefinitions(
        self, request: P.SearchDefinitionsRequest, context: Context
    ) -> P.SearchDefinitionsResponse:
        wanted = Wanted(await self._space(request), text=self._fields.text(request.text, "text"))
        found, token = await self._page(request, wanted, BY_CODE)
        return P.SearchDefinitionsResponse(definitions=found, next_page_token=token)

    async def UpdateDefinition(
        self, request: P.UpdateDefinitionRequest, context: Context
    ) -> P.UpdateDefinitionResponse:
        message, mask, fields = request.definition, request.update_mask, self._fields
        check_mask(mask)
        ref = ref_from_proto(message, fields, "definition.")
        expected = integer(request.expected_revision, "expected_revision", at_most=_GREATEST)

        def decide(before: Definition) -> Definition:
            if expected and expected != before.revision:
                raise DefinitionChanged(definition_id=before.definition_id, revision=before.revision, expected=expected)
            return changed(before, message, mask, fields)

        namespace_id = await self._space(request)
        asked = asked_of(request, namespace_id, Definition, fields)
        found = await store.change(self._database, namespace_id, ref, decide, self._clock.now(), asked)
        if found is None:
            raise self._absent(request, ref)
        return P.UpdateDefinitionResponse(definition=definition_to_proto(found))

    async def DeleteDefinition(
        self, request: P.DeleteDefinitionRequest, context: Context
    ) -> P.DeleteDefinitionResponse:
        ref, namespace_id = ref_from_proto(request, self._fields), await self._space(request)
        asked = asked_of(request, namespace_id, int, self._fields)
        count = await store.remove(self._database, namespace_id, ref, self._clock.now(), asked)
        return P.DeleteDefinitionResponse(deleted_count=count)

    async def ActivateDefinition(
        self, request: P.ActivateDefinitionRequest, context: Context
    ) -> P.ActivateDefinitionResponse:
        done = await self._set_active(request, active=True)
        return P.ActivateDefinitionResponse(found_count=done.found, changed_count=done.changed)

    async def DeactivateDefinition(
        self, request: P.DeactivateDefinitionRequest, context: Context
    ) -> P.DeactivateDefinitionResponse:
        done = await self._set_active(request, active=False)
        return P.DeactivateDefinitionResponse(found_count=done.found, changed_count=done.changed)

    async def GetDefinitionCode(
        self, request: P.GetDefinitionCodeRequest, context: Context
    ) -> P.GetDefinitionCodeResponse:
        name = self._fields.name(request.code, "code")
        found = await store.code(self._database, await self._space(request), name)
        return P.GetDefinitionCodeResponse(
            exists=found.versions > 0,
            version_count=found.versions,
            latest_version=found.latest,
            next_version=found.latest + 1,
        )

    async def _space(self, request: Any) -> int:  # noqa: ANN401 - any request that names a namespace
        return await self._namespaces.id_of(self._fields.namespace(request.namespace))

    def _absent(self, request: Any, ref: DefinitionRef) -> DefinitionNotFound:  # noqa: ANN401 - any request
        return DefinitionNotFound(namespace=self._fields.namespace(request.namespace), definition=ref.label)

    async def _page(
        self,
        request: P.ListDefinitionsRequest | P.ListDefinitionVersionsRequest | P.SearchDefinitionsRequest,
        wanted: Wanted,
        order: Order,
    ) -> tuple[list[P.Definition], str]:
        page = read_page(request, position_of(order, LISTED, int), self._fields.limits)
        most_bytes = self._fields.limits.message_bytes - MESSAGE_MARGIN
        found = await store.page(
            self._database,
            wanted,
            order,
            page.after,
            page.size,
            page.skip,
            most_bytes,
            with_bodies=request.with_bodies,
        )
        token = page.token(found.place) if found.place is not None else ""
        return [definition_to_proto(each) for each in found.definitions], token

    async def _set_active(
        self, request: P.ActivateDefinitionRequest | P.DeactivateDefinitionRequest, *, active: bool
    ) -> Activated:
        ref, namespace_id = ref_from_proto(request, self._fields), await self._space(request)
        asked = asked_of(request, namespace_id, Activated, self._fields)
        now = self._clock.now()
        return await store.set_active(self._database, namespace_id, ref, active=active, now=now, asked=asked)
