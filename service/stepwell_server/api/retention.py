"""RetentionService."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import retention_pb2, retention_pb2_grpc
from stepwell_server import errors
from stepwell_server.api.fields import Fields, time
from stepwell_server.api.filters import read_filter
from stepwell_server.api.interceptors.deadlines import remaining
from stepwell_server.api.page import read_page
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_values import RunRefs
from stepwell_server.engine.runs import Steered, TerminateRun
from stepwell_server.errors import InvalidField
from stepwell_server.model.runs import LISTED, Phase, RunRef
from stepwell_server.store import removal, runs

if TYPE_CHECKING:
    from datetime import datetime

    from stepwell_server.clock import Clock
    from stepwell_server.engine.committer import Committers
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]


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
        cutoff = required_time(request, "cutoff")
        where = read_filter(request.filter, LISTED, self._fields.limits)
        namespace = self._fields.namespace(request.namespace)
        page = read_page(request, int, self._fields.limits)
        most = page.size if request.page_size else self._fields.limits.page_items_maximum
        wanted = removal.Wanted(await self._namespaces.id_of(namespace), cutoff, where)
        cleaned = await removal.clean_up(self._database, wanted, page.after or 0, most, is_dry=request.dry_run)
        token = page.token(cleaned.after) if cleaned.after is not None else ""
        return retention_pb2.CleanUpRunsResponse(count=cleaned.runs, next_page_token=token)


def required_time(request: Any, field: str) -> datetime:  # noqa: ANN401 - any request with that field
    """A time that must be given."""
    found = time(request, field)
    if found is None:
        raise InvalidField(field=field, problem="is required: give it a time")
    return found
