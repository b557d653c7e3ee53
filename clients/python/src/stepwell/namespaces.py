"""Namespaces: everything lives in one, and nothing crosses it. The part of a client that is about them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Literal

from stepwell._rpc import uuid7
from stepwell.policies import Seconds, duration
from stepwell.runs import PAGE_SIZE
from stepwell.v1 import namespaces_pb2

if TYPE_CHECKING:
    from stepwell._rpc import Caller
    from stepwell.v1.namespaces_pb2_grpc import NamespaceServiceAsyncStub


class NamespaceCalls:
    """See the module. What it stands on is the client's."""

    caller: Caller
    namespace_stub: NamespaceServiceAsyncStub

    async def create_namespace(self, name: str) -> None:
        """Creates a namespace. Raises `NamespaceExists`, `InvalidField`."""
        request = namespaces_pb2.CreateNamespaceRequest(namespace=name, request_id=uuid7())
        await self.caller.call(self.namespace_stub.CreateNamespace, request)

    async def list_namespaces(self) -> AsyncGenerator[namespaces_pb2.Namespace, None]:
        """Lists all namespaces by name."""
        request = namespaces_pb2.ListNamespacesRequest(page_size=PAGE_SIZE)
        while True:
            page = await self.caller.call(self.namespace_stub.ListNamespaces, request)
            for namespace in page.namespaces:
                yield namespace
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get_namespace(self, name: str) -> namespaces_pb2.Namespace:
        """Reads a namespace: for how long runs are kept, and where they are archived. Raises `NamespaceNotFound`."""
        request = namespaces_pb2.GetNamespaceRequest(namespace=name)
        return (await self.caller.call(self.namespace_stub.GetNamespace, request)).namespace

    async def update_namespace(
        self, name: str, *, retention: Seconds | Literal["forever"] | None = None, archive_url: str | None = None
    ) -> namespaces_pb2.Namespace:
        """Changes for how many seconds ended runs are kept, and where they are archived ("": nowhere).

        What is not given stays. Raises `NamespaceNotFound`, `InvalidField`, `ArchivesNotSupported`.
        """
        request = namespaces_pb2.UpdateNamespaceRequest(namespace=name, request_id=uuid7())
        if retention is not None:
            request.update_mask.paths.append("retention")
        if retention is not None and retention != "forever":
            request.MergeFrom(namespaces_pb2.UpdateNamespaceRequest(retention=duration(retention)))
        if archive_url is not None:
            request.update_mask.paths.append("archive_url")
            request.archive_url = archive_url
        return (await self.caller.call(self.namespace_stub.UpdateNamespace, request)).namespace

    async def delete_namespace(self, name: str) -> bool:
        """Deletes an empty namespace. False if there was none, or if it is `main`. Raises `NamespaceNotEmpty`."""
        request = namespaces_pb2.DeleteNamespaceRequest(namespace=name, request_id=uuid7())
        return (await self.caller.call(self.namespace_stub.DeleteNamespace, request)).deleted
