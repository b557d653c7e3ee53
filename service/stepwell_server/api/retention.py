"""RetentionService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc.aio

from stepwell.v1 import retention_pb2, retention_pb2_grpc
from stepwell_server import errors
from stepwell_server.api.fields import Fields, time
from stepwell_server.api.filters import read_filter
from stepwell_server.api.interceptors.deadlines import remaining
from stepwell_server.api.page import read_page
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_values import MESSAGE_MARGIN, RunRefs, run_to_proto, whole_run_to_proto
from stepwell_server.engine.runs import Steered, TerminateRun
from stepwell_server.errors import InvalidField
from stepwell_server.model.runs import LISTED, Phase, RunRef
from stepwell_server.store import archives, event_removal, removal, runs, whole_runs
from stepwell_server.store.bundles import bundle

if TYPE_CHECKING:
    from stepwell_server.clock import Clock
    from stepwell_server.engine.committer import Committers
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]

_URI_BYTES = 2_048
_PART_BYTES = 1024 * 1024


class _Place(NamedTuple):
    """Where a list of runs by their end stands."""

    end_time: datetime
    run_key: int


class RetentionCalls(retention_pb2_grpc.RetentionServiceServicer):
    """Removes ended runs."""

    def __init__(
        self, committers: Committers, database: Database, namespaces: Namespaces, clock: Clock, settings: Settings
    ) -> None:
        self._committers = committers
        self._database = database
        self._namespaces = namespaces
        self._clock = clock
        self._fields = Fields(settings.limits)
        self._refs = RunRefs(self._fields, namespaces)
        self._folder = settings.archive_folder

    async def DeleteRun(
        self, request: retention_pb2.DeleteRunRequest, context: Context
    ) -> retention_pb2.DeleteRunResponse:
        ref = await self._refs.read(request)
        asked = asked_of(request, ref.namespace_id, bool, self._fields)
        known = await removal.recall(self._database, asked)
        if known is None:
            key = await self._ended(ref, force=request.force)
            known = await removal.remove_one(self._database, key, asked, self._clock.now())
        if known is None:
            raise errors.RunBusy(run_id=ref.label)
        return retention_pb2.DeleteRunResponse(deleted=known)

    async def _ended(self, ref: RunRef, *, force: bool) -> int | None:
        """The key of the run, which has ended or is ended now; None if there is none."""
        run = await runs.seek(self._database, ref)
        if run is None or run.is_closed:
            return run.run_key if run is not None else None
        if not force:
            raise errors.RunNotEnded(run_id=run.run_id, phase=Phase(run.phase).name)
        ended = RunRef(run.namespace_id, ref.namespace, run_key=run.run_key)
        await self._committers.do(Steered, TerminateRun(ended, "deleted"), seconds=remaining())
        return run.run_key

    async def CleanUpRuns(
        self, request: retention_pb2.CleanUpRunsRequest, context: Context
    ) -> retention_pb2.CleanUpRunsResponse:
        wanted, page = await self._wanted(request), read_page(request, int, self._fields.limits)
        most = page.size if request.page_size else self._fields.limits.page_items_maximum
        cleaned = await removal.clean_up(self._database, wanted, page.after or 0, most, is_dry=request.dry_run)
        token = page.token(cleaned.after) if cleaned.after is not None else ""
        return retention_pb2.CleanUpRunsResponse(count=cleaned.runs, next_page_token=token)

    async def ListArchivableRuns(
        self, request: retention_pb2.ListArchivableRunsRequest, context: Context
    ) -> retention_pb2.ListArchivableRunsResponse:
        wanted, page = await self._wanted(request), read_page(request, _Place, self._fields.limits)
        found = await archives.archivable(self._database, wanted, page.after, page.fetch)
        namespace, most_bytes = self._fields.namespace(request.namespace), self._fields.limits.message_bytes
        if request.payloads:
            wholes = await whole_runs.fitting(self._database, found[: page.size], most_bytes - MESSAGE_MARGIN)
            listed = [whole_run_to_proto(whole, namespace) for whole in wholes]
        else:
            listed = [run_to_proto(run, namespace) for run in found[: page.size]]
        last = found[len(listed) - 1] if len(found) > len(listed) else None
        token = page.token(_Place(last.end_time, last.run_key)) if last is not None and last.end_time else ""
        return retention_pb2.ListArchivableRunsResponse(runs=listed, next_page_token=token)

    async def ArchiveRuns(
        self, request: retention_pb2.ArchiveRunsRequest, context: Context
    ) -> retention_pb2.ArchiveRunsResponse:
        wanted, page = await self._wanted(request), read_page(request, int, self._fields.limits)
        namespace = await self._namespaces.get(self._fields.namespace(request.namespace))
        archive = archives.archive_of(namespace, self._folder)
        if archive is None:
            raise errors.ArchiveNotSet(namespace=namespace.name)
        archived = await archives.archive_runs(
            self._database, archive, wanted, page.after or 0, page.size, self._clock.now(), is_dry=request.dry_run
        )
        token = page.token(archived.after) if archived.after is not None else ""
        return retention_pb2.ArchiveRunsResponse(count=archived.runs, next_page_token=token)

    async def MarkRunArchived(
        self, request: retention_pb2.MarkRunArchivedRequest, context: Context
    ) -> retention_pb2.MarkRunArchivedResponse:
        uri = _uri(self._fields, request.archive_uri)
        at, now = time(request, "archive_time"), self._clock.now()
        ref = await self._refs.read(request)
        asked = asked_of(request, ref.namespace_id, bool, self._fields)
        known = await removal.recall(self._database, asked)
        if known is None:
            key = await self._ended(ref, force=False)
            known = await archives.mark_archived(self._database, key, uri, at or now, asked, now)
        if known is None:
            raise errors.RunBusy(run_id=ref.label)
        return retention_pb2.MarkRunArchivedResponse(archived=known)

    async def ExportRun(
        self, request: retention_pb2.ExportRunRequest, context: Context
    ) -> AsyncIterator[retention_pb2.ExportRunResponse]:
        run = await runs.find(self._database, await self._refs.read(request))
        namespace = await self._namespaces.name_of(run.namespace_id)
        async for part in bundle(self._database, run, namespace):
            for start in range(0, len(part), _PART_BYTES):
                yield retention_pb2.ExportRunResponse(data=part[start : start + _PART_BYTES])

    async def PruneEvents(
        self, request: retention_pb2.PruneEventsRequest, context: Context
    ) -> retention_pb2.PruneEventsResponse:
        scopes = retention_pb2.PruneEventsRequest.Scope
        scope = self._fields.member(request.scope, scopes, "scope", required=True)
        cutoff, page = required_time(request, "cutoff"), read_page(request, int, self._fields.limits)
        most = page.size if request.page_size else self._fields.limits.page_items_maximum
        namespace_id = await self._namespaces.id_of(self._fields.namespace(request.namespace))
        if scope == scopes.SCOPE_CALLERS:
            pruned = await event_removal.prune_callers(self._database, namespace_id, cutoff, page.after or 0, most)
        else:
            wanted = removal.Wanted(namespace_id, cutoff)
            pruned = await event_removal.prune_ended(self._database, wanted, page.after or 0, most)
        token = page.token(pruned.after) if pruned.after is not None else ""
        return retention_pb2.PruneEventsResponse(count=pruned.runs, next_page_token=token)

    async def _wanted(self, request: Any) -> removal.Wanted:  # noqa: ANN401 - any request about runs by their end
        cutoff = required_time(request, "cutoff")
        where = read_filter(request.filter, LISTED, self._fields.limits)
        namespace = self._fields.namespace(request.namespace)
        return removal.Wanted(await self._namespaces.id_of(namespace), cutoff, where)


def _uri(fields: Fields, value: str) -> str:
    if not value:
        raise InvalidField(field="archive_uri", problem="is required: where the run was archived to")
    if len(value.encode()) > _URI_BYTES:
        raise InvalidField(field="archive_uri", problem=f"is longer than {_URI_BYTES} bytes")
    if "\n" in value:
        raise InvalidField(field="archive_uri", problem="holds a new line: leave it out")
    return fields.remark(value, "archive_uri")


def required_time(request: Any, field: str) -> datetime:  # noqa: ANN401 - any request with that field
    """A time that must be given."""
    found = time(request, field)
    if found is None:
        raise InvalidField(field=field, problem="is required: give it a time")
    return found
