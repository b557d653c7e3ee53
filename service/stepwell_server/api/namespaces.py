"""NamespaceService."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import namespaces_pb2, namespaces_pb2_grpc, types_pb2
from stepwell_server.api.fields import Fields, seconds
from stepwell_server.api.filters import position_of, read_filter, read_order
from stepwell_server.api.interceptors.access import caller
from stepwell_server.api.page import read_page
from stepwell_server.api.payloads import duration_to_proto
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.api.task_queues import backlog_to_proto
from stepwell_server.errors import InvalidField
from stepwell_server.model.archive_urls import ArchiveUrl, read_archive_url
from stepwell_server.model.tasks import TaskKind
from stepwell_server.store import object_stores, task_queues
from stepwell_server.store.namespaces import LISTED, NamespaceRow, place_of

if TYPE_CHECKING:
    from stepwell_server.clock import Clock
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]

_CHANGEABLE = {"retention", "archive_url"}


class NamespaceCalls(namespaces_pb2_grpc.NamespaceServiceServicer):
    """Creates, lists and deletes namespaces."""

    def __init__(self, database: Database, namespaces: Namespaces, clock: Clock, settings: Settings) -> None:
        self._database = database
        self._namespaces = namespaces
        self._clock = clock
        self._fields = Fields(settings.limits)
        self._folder = settings.archive_folder

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

    async def UpdateNamespace(
        self, request: namespaces_pb2.UpdateNamespaceRequest, context: Context
    ) -> namespaces_pb2.UpdateNamespaceResponse:
        name = self._fields.namespace(request.namespace)
        changes = self._changes(request)
        asked = asked_of(request, await self._namespaces.id_of(name), NamespaceRow, self._fields)
        changed = await self._namespaces.update(name, changes, self._clock.now(), asked)
        return namespaces_pb2.UpdateNamespaceResponse(namespace=namespace_to_proto(changed))

    def _changes(self, request: namespaces_pb2.UpdateNamespaceRequest) -> dict[str, float | str | None]:
        """The columns that change, with their new values."""
        paths = set(request.update_mask.paths)
        if not paths or not paths <= _CHANGEABLE:
            problem = f"names {sorted(paths - _CHANGEABLE)}" if paths else "is required"
            raise InvalidField(field="update_mask", problem=f"{problem}: name some of {', '.join(sorted(_CHANGEABLE))}")
        changes: dict[str, float | str | None] = {}
        if "retention" in paths:
            changes["retention_seconds"] = seconds(request, "retention", at_least=1.0)
        if "archive_url" in paths:
            url = archive_url_from_text(request.archive_url)
            if url is not None:
                object_stores.check(url, self._folder)
            changes["archive_url"] = "" if url is None else str(url)
        return changes

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
        now = self._clock.now()
        stats = await self._namespaces.stats(namespace, now)
        waiting, more = await task_queues.backlogs_of_all(self._database, stats.namespace_id or 0)
        count = namespaces_pb2.GetNamespaceStatsResponse.PhaseCount
        return namespaces_pb2.GetNamespaceStatsResponse(
            namespace=namespace,
            total_runs=sum(stats.runs.values()),
            runs=[count(phase=types_pb2.RunPhase.ValueType(phase), count=runs) for phase, runs in stats.runs.items()],
            workers=stats.workers,
            schedules=stats.schedules,
            waiting_runs=backlog_to_proto((each for each in waiting if each.kind == TaskKind.RUN), now, more=more),
            waiting_activities=backlog_to_proto(
                (each for each in waiting if each.kind != TaskKind.RUN), now, more=more
            ),
        )


def namespace_to_proto(row: NamespaceRow) -> namespaces_pb2.Namespace:
    """Renders a namespace."""
    return namespaces_pb2.Namespace(
        name=row.name,
        create_time=time_to_proto(row.create_time),
        retention=duration_to_proto(row.retention_seconds),
        archive_url=row.archive_url,
    )


def archive_url_from_text(text: str) -> ArchiveUrl | None:
    """Reads where to archive; None for nowhere."""
    try:
        return read_archive_url(text) if text else None
    except ValueError as error:
        raise InvalidField(field="archive_url", problem=str(error)) from error
