"""NamespaceService."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import namespaces_pb2, namespaces_pb2_grpc, types_pb2
from stepwell_server.api.fields import Fields
from stepwell_server.api.filters import position_of, read_filter, read_order
from stepwell_server.api.interceptors.access import caller
from stepwell_server.api.page import read_page
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.store.namespaces import LISTED, NamespaceRow, place_of

if TYPE_CHECKING:
    from stepwell_server.clock import Clock
    from stepwell_server.settings import Settings
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]


class NamespaceCalls(namespaces_pb2_grpc.NamespaceServiceServicer):
    """Creates, lists and deletes namespaces."""

    def __init__(self, namespaces: Namespaces, clock: Clock, settings: Settings) -> None:
        self._namespaces = namespaces
        self._clock = clock
        self._fields = Fields(settings.limits)

    async def CreateNamespace(
        self, request: namespaces_pb2.CreateNamespaceRequest, context: Context
    ) -> namespaces_pb2.CreateNamespaceResponse:
        self._fields.name(request.namespace, "namespace")
        asked = asked_of(request, None, NamespaceRow, self._fields)
        name = self._fields.namespace(request.namespace)
        made = await self._namespaces.create(name, self._clock.now(), asked)
        return namespaces_pb2.CreateNamespaceResponse(namespace=namespace_to_proto(made))

    async def GetNamespace(
        self, request: namespaces_pb2.GetNamespaceRequest, context: Context
    ) -> namespaces_pb2.GetNamespaceResponse:
        found = await self._namespaces.get(self._fields.namespace(request.namespace))
        return namespaces_pb2.GetNamespaceResponse(namespace=namespace_to_proto(found))

    async def ListNamespaces(
        self, request: namespaces_pb2.ListNamespacesRequest, context: Context
    ) -> namespaces_pb2.ListNamespacesResponse:
        wanted, order = read_filter(request.filter, LISTED, self._fields.limits), read_order(request.order_by, LISTED)
        page = read_page(request, position_of(order, LISTED, str), self._fields.limits)
        whose = caller()
        found = await self._namespaces.page(
            wanted, order, page.after, page.fetch, only=whose.namespace if whose is not None else None
        )
        shown = found[: page.size]
        token = page.token(place_of(shown[-1], order)) if len(found) > page.size else ""
        listed = [namespace_to_proto(row) for row in shown]
        return namespaces_pb2.ListNamespacesResponse(namespaces=listed, next_page_token=token)

    async def DeleteNamespace(
        self, request: namespaces_pb2.DeleteNamespaceRequest, context: Context
    ) -> namespaces_pb2.DeleteNamespaceResponse:
        self._fields.name(request.namespace, "namespace")
        asked = asked_of(request, None, bool, self._fields)
        name = self._fields.namespace(request.namespace)
        deleted = await self._namespaces.delete(name, self._clock.now(), asked)
        return namespaces_pb2.DeleteNamespaceResponse(deleted=deleted)

    async def GetNamespaceStats(
        self, request: namespaces_pb2.GetNamespaceStatsRequest, context: Context
    ) -> namespaces_pb2.GetNamespaceStatsResponse:
        namespace = self._fields.namespace(request.namespace)
        stats = await self._namespaces.stats(namespace, self._clock.now())
        count = namespaces_pb2.GetNamespaceStatsResponse.PhaseCount
        return namespaces_pb2.GetNamespaceStatsResponse(
            namespace=namespace,
            total_runs=sum(stats.runs.values()),
            runs=[count(phase=types_pb2.RunPhase.ValueType(phase), count=runs) for phase, runs in stats.runs.items()],
            workers=stats.workers,
            schedules=stats.schedules,
        )


def namespace_to_proto(row: NamespaceRow) -> namespaces_pb2.Namespace:
    """Renders a namespace."""
    return namespaces_pb2.Namespace(name=row.name, create_time=time_to_proto(row.create_time))
