"""Vyuh's `WorkflowRepository`: definitions."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from google.protobuf.field_mask_pb2 import FieldMask

from stepwell.reasons import DefinitionNotFound
from stepwell.stores._connection import Store, payload_of, time_of, value_of
from stepwell.v1 import definitions_pb2 as pb
from stepwell.v1.definitions_pb2_grpc import DefinitionServiceStub

if TYPE_CHECKING:
    from stepwell.v1.definitions_pb2_grpc import DefinitionServiceAsyncStub

_CHANGED = ("name", "description", "body", "metadata", "active")


@dataclass(frozen=True, kw_only=True)
class RawWorkflow:
    """A definition as it is stored. `revision` is ours: of one that was read, `update` finds out who was faster."""

    id: str = ""
    code: str
    name: str = ""
    version: int = 1
    isActive: bool = True
    nodes: Sequence[Any] = ()
    edges: Sequence[Any] = ()
    description: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    createdAt: dt.datetime | None = None
    updatedAt: dt.datetime | None = None
    revision: int = 0


class WorkflowRepository(Store):
    """Definitions by id, or by code and version. `storage.workflows`."""

    @cached_property
    def _stub(self) -> DefinitionServiceAsyncStub:
        return DefinitionServiceStub(self.channel)

    async def getById(self, id: str) -> RawWorkflow | None:
        """Reads one, or `None`. An id is a UUID; raises `InvalidField` for other text."""
        return await self._get(pb.GetDefinitionRequest(namespace=self.namespace, definition_id=id))

    async def getByCode(self, code: str, version: int | None = None) -> RawWorkflow | None:
        """Reads a version, by default the latest, or `None`."""
        request = pb.GetDefinitionRequest(namespace=self.namespace, code=code, version=version or 0)
        return await self._get(request)

    async def getAllVersions(self, code: str) -> Sequence[RawWorkflow]:
        """All versions of a code, the latest first."""
        request = pb.ListDefinitionVersionsRequest(namespace=self.namespace, code=code, with_bodies=True)
        return list(map(workflow_of, await self.every(self._stub.ListDefinitionVersions, request, "definitions")))

    async def list(self, limit: int = 100, offset: int = 0, activeOnly: bool = False) -> Sequence[RawWorkflow]:
        """Definitions by code and version."""
        request = pb.ListDefinitionsRequest(namespace=self.namespace, active_only=activeOnly, with_bodies=True)
        listed = self.window(self._stub.ListDefinitions, request, "definitions", limit=limit, offset=offset)
        return [workflow_of(each) for each in await listed]

    async def search(self, query: str, limit: int = 100) -> Sequence[RawWorkflow]:
        """Definitions whose name or code holds the text, in upper or lower case alike."""
        request = pb.SearchDefinitionsRequest(namespace=self.namespace, text=query, with_bodies=True)
        found = self.window(self._stub.SearchDefinitions, request, "definitions", limit=limit)
        return [workflow_of(each) for each in await found]

    async def create(self, workflow: RawWorkflow) -> RawWorkflow:
        """Keeps a new version, and gives it as it is kept. Raises `DefinitionExists`."""
        request = pb.CreateDefinitionRequest(namespace=self.namespace, definition=_message_of(workflow))
        return _kept(workflow, (await self.call(self._stub.CreateDefinition, request)).definition)

    async def update(self, workflow: RawWorkflow) -> RawWorkflow:
        """Changes the one with that id: all but its code and version, which are what it is known by.

        Raises `DefinitionNotFound`, and `DefinitionChanged` if it has another revision than the record; revision 0
        changes it in any case.
        """
        request = pb.UpdateDefinitionRequest(
            namespace=self.namespace,
            definition=_message_of(workflow),
            update_mask=FieldMask(paths=_CHANGED),
            expected_revision=workflow.revision,
        )
        return _kept(workflow, (await self.call(self._stub.UpdateDefinition, request)).definition)

    async def delete(self, code: str, version: int | None = None) -> bool:
        """Deletes a version, by default all. False if there is none. Raises `DefinitionInUse`: instances follow it."""
        request = pb.DeleteDefinitionRequest(namespace=self.namespace, code=code, version=version or 0)
        return (await self.call(self._stub.DeleteDefinition, request)).deleted_count > 0

    async def activate(self, code: str, version: int | None = None) -> bool:
        """Makes a version active, by default all. False if there is none."""
        request = pb.ActivateDefinitionRequest(namespace=self.namespace, code=code, version=version or 0)
        return (await self.call(self._stub.ActivateDefinition, request)).found_count > 0

    async def deactivate(self, code: str, version: int | None = None) -> bool:
        """Makes a version inactive, by default all. False if there is none."""
        request = pb.DeactivateDefinitionRequest(namespace=self.namespace, code=code, version=version or 0)
        return (await self.call(self._stub.DeactivateDefinition, request)).found_count > 0

    async def codeExists(self, code: str) -> bool:
        """Whether there is a version of the code."""
        return (await self._code(code)).exists

    async def getNextVersion(self, code: str) -> int:
        """One more than the greatest version; 1 if there is none. A hint: who creates it first has it."""
        return (await self._code(code)).next_version

    async def _code(self, code: str) -> pb.GetDefinitionCodeResponse:
        request = pb.GetDefinitionCodeRequest(namespace=self.namespace, code=code)
        return await self.call(self._stub.GetDefinitionCode, request)

    async def _get(self, request: pb.GetDefinitionRequest) -> RawWorkflow | None:
        try:
            return workflow_of((await self.call(self._stub.GetDefinition, request)).definition)
        except DefinitionNotFound:
            return None


def workflow_of(message: pb.Definition) -> RawWorkflow:
    """The record of a definition that was read with its body."""
    body = value_of(message.body) or {}
    return RawWorkflow(
        id=message.definition_id,
        code=message.code,
        name=message.name,
        version=message.version,
        isActive=message.active,
        nodes=body.get("nodes", []),
        edges=body.get("edges", []),
        description=message.description or None,
        metadata=value_of(message.metadata) or {},
        createdAt=time_of(message, "create_time"),
        updatedAt=time_of(message, "update_time"),
        revision=message.revision,
    )


def _message_of(workflow: RawWorkflow) -> pb.Definition:
    return pb.Definition(
        definition_id=workflow.id,
        code=workflow.code,
        version=workflow.version,
        name=workflow.name,
        description=workflow.description or "",
        body=payload_of({"nodes": list(workflow.nodes), "edges": list(workflow.edges)}),
        metadata=payload_of(dict(workflow.metadata)),
        active=workflow.isActive,
    )


def _kept(workflow: RawWorkflow, message: pb.Definition) -> RawWorkflow:
    return replace(
        workflow,
        id=message.definition_id,
        version=message.version,
        createdAt=time_of(message, "create_time"),
        updatedAt=time_of(message, "update_time"),
        revision=message.revision,
    )
