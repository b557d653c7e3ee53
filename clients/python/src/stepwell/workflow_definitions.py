"""Definitions: workflows as data, in versions, for engines that interpret them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from google.protobuf.field_mask_pb2 import FieldMask

from stepwell._rpc import uuid7
from stepwell.runs import PAGE_SIZE
from stepwell.v1 import definitions_pb2
from stepwell.v1.definitions_pb2_grpc import DefinitionServiceStub

if TYPE_CHECKING:
    import grpc.aio

    from stepwell._rpc import Caller
    from stepwell.converter import DataConverter


class DefinitionFields(TypedDict, total=False):
    """What a definition says beside its code and version.

    `body`: what it is, any value. `name` and `description`: for people. `metadata`: any value kept beside it. `active`:
    whether new runs may follow it, default true.
    """

    body: object
    name: str
    description: str
    metadata: object
    active: bool


class DefinitionFilter(TypedDict, total=False):
    """Which definitions to list, and how; what is absent does not matter. See docs/lists.md."""

    active_only: bool
    filter: str
    order_by: str
    with_bodies: bool


class Definitions:
    """A client's definitions; `client.definitions`. Definitions are given as the protocol's messages.

    Where a method takes `code` and `version`, version 0, the default, is the latest; `delete`, `activate` and
    `deactivate` then mean all versions.
    """

    def __init__(self, channel: grpc.aio.Channel, caller: Caller, namespace: str, converter: DataConverter) -> None:
        """Made by the client."""
        self._stub = DefinitionServiceStub(channel)
        self._caller = caller
        self._namespace = namespace
        self._converter = converter

    async def create(
        self, code: str, *, version: int = 0, definition_id: str = "", **fields: Unpack[DefinitionFields]
    ) -> definitions_pb2.Definition:
        """Makes a version of a definition, by default the next, and gives it without its body.

        Raises `DefinitionExists`, `InvalidField`.
        """
        made = definitions_pb2.Definition(
            definition_id=definition_id, code=code, version=version, **self._spelt(fields)
        )
        request = definitions_pb2.CreateDefinitionRequest(
            namespace=self._namespace, definition=made, request_id=uuid7()
        )
        return (await self._caller.call(self._stub.CreateDefinition, request)).definition

    async def get(
        self, code: str = "", version: int = 0, *, definition_id: str = "", active_only: bool = False
    ) -> definitions_pb2.Definition:
        """Reads a definition with its body. Raises `DefinitionNotFound`."""
        request = definitions_pb2.GetDefinitionRequest(
            **self._named(code, version, definition_id), active_only=active_only
        )
        return (await self._caller.call(self._stub.GetDefinition, request)).definition

    async def list(self, **only: Unpack[DefinitionFilter]) -> AsyncGenerator[definitions_pb2.Definition, None]:
        """Lists definitions by code and version, without their bodies unless `with_bodies`."""
        request = definitions_pb2.ListDefinitionsRequest(namespace=self._namespace, page_size=PAGE_SIZE, **only)
        async for definition in self._pages(self._stub.ListDefinitions, request):
            yield definition

    async def versions(
        self, code: str, *, with_bodies: bool = False
    ) -> AsyncGenerator[definitions_pb2.Definition, None]:
        """Lists the versions of a code, the latest first."""
        request = definitions_pb2.ListDefinitionVersionsRequest(
            namespace=self._namespace, code=code, page_size=PAGE_SIZE, with_bodies=with_bodies
        )
        async for definition in self._pages(self._stub.ListDefinitionVersions, request):
            yield definition

    async def search(self, text: str, *, with_bodies: bool = False) -> AsyncGenerator[definitions_pb2.Definition, None]:
        """Lists definitions whose name or code holds a text, in upper or lower case alike."""
        request = definitions_pb2.SearchDefinitionsRequest(
            namespace=self._namespace, text=text, page_size=PAGE_SIZE, with_bodies=with_bodies
        )
        async for definition in self._pages(self._stub.SearchDefinitions, request):
            yield definition

    async def update(
        self,
        code: str = "",
        version: int = 0,
        *,
        definition_id: str = "",
        expected_revision: int = 0,
        **fields: Unpack[DefinitionFields],
    ) -> definitions_pb2.Definition:
        """Changes what is given, and gives the definition without its body.

        `expected_revision`: the revision that the caller has seen, default whatever it is. Raises
        `DefinitionNotFound`, `DefinitionChanged`, `InvalidField`.
        """
        named = {"definition_id": definition_id, "code": code, "version": version}
        request = definitions_pb2.UpdateDefinitionRequest(
            namespace=self._namespace,
            definition=definitions_pb2.Definition(**named, **self._spelt(fields)),  # type: ignore[arg-type]
            update_mask=FieldMask(paths=list(fields)),
            expected_revision=expected_revision,
            request_id=uuid7(),
        )
        return (await self._caller.call(self._stub.UpdateDefinition, request)).definition

    async def delete(self, code: str = "", version: int = 0, *, definition_id: str = "") -> int:
        """Deletes a version, or all versions of a code, and tells how many. Raises `DefinitionInUse`."""
        request = definitions_pb2.DeleteDefinitionRequest(
            **self._named(code, version, definition_id), request_id=uuid7()
        )
        return (await self._caller.call(self._stub.DeleteDefinition, request)).deleted_count

    async def activate(self, code: str = "", version: int = 0, *, definition_id: str = "") -> bool:
        """Makes a version, or all versions of a code, active. False if there is none."""
        request = definitions_pb2.ActivateDefinitionRequest(
            **self._named(code, version, definition_id), request_id=uuid7()
        )
        return (await self._caller.call(self._stub.ActivateDefinition, request)).found_count > 0

    async def deactivate(self, code: str = "", version: int = 0, *, definition_id: str = "") -> bool:
        """Makes a version, or all versions of a code, inactive. False if there is none."""
        request = definitions_pb2.DeactivateDefinitionRequest(
            **self._named(code, version, definition_id), request_id=uuid7()
        )
        return (await self._caller.call(self._stub.DeactivateDefinition, request)).found_count > 0

    async def code(self, code: str) -> definitions_pb2.GetDefinitionCodeResponse:
        """Tells whether there is a code, its latest version, and the next one as it is now."""
        request = definitions_pb2.GetDefinitionCodeRequest(namespace=self._namespace, code=code)
        return await self._caller.call(self._stub.GetDefinitionCode, request)

    async def _pages(self, method: Any, request: Any) -> AsyncGenerator[definitions_pb2.Definition, None]:  # noqa: ANN401
        while True:
            page = await self._caller.call(method, request)
            for definition in page.definitions:
                yield definition
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _named(self, code: str, version: int, definition_id: str) -> dict[str, Any]:
        return {"namespace": self._namespace, "definition_id": definition_id, "code": code, "version": version}

    def _spelt(self, fields: DefinitionFields) -> dict[str, Any]:
        payloads = {"body", "metadata"}
        return {
            name: self._converter.to_payload(value) if name in payloads else value for name, value in fields.items()
        }
