"""The part of RunStore that is about where runs come from: re-runs, and what set runs off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc.aio
import msgspec

from stepwell.v1 import run_store_pb2, run_store_pb2_grpc
from stepwell_server import errors, telemetry
from stepwell_server.api.fields import Fields, optional_uuid, uuid
from stepwell_server.api.interceptors.deadlines import remaining
from stepwell_server.api.page import read_page
from stepwell_server.api.run_control_store import folded_name
from stepwell_server.api.run_starts import alike, content_hash
from stepwell_server.api.stores import StoreCalls
from stepwell_server.engine.starts import NewRun, Reuse, Started, StartRun
from stepwell_server.errors import InvalidField
from stepwell_server.ids import run_id_for_request, uuid7
from stepwell_server.model.driven import RunOrigin
from stepwell_server.model.runs import Phase, RunRef, unpack_details
from stepwell_server.store import run_origins, runs

if TYPE_CHECKING:
    from stepwell_server.store.runs import WholeRun

    Context = grpc.aio.ServicerContext[Any, Any]


class DerivedRuns(StoreCalls, run_store_pb2_grpc.RunStoreServicer):
    """Creates re-runs, and lists them."""

    async def ListDerivedRuns(
        self, request: run_store_pb2.ListDerivedRunsRequest, context: Context
    ) -> run_store_pb2.ListDerivedRunsResponse:
        page, run_id = read_page(request, int, self._fields.limits), uuid(request.run_id, "run_id")
        space = await self._space(request)
        found = await run_origins.derived(self._database, space.namespace_id or 0, run_id, page.after, page.fetch)
        shown = found[: page.size]
        token = page.token(shown[-1].run_key) if len(found) > page.size else ""
        listed = await self._listed(shown, space.namespace, payloads=request.payloads)
        return run_store_pb2.ListDerivedRunsResponse(runs=listed, next_page_token=token)

    async def RerunRun(
        self, request: run_store_pb2.RerunRunRequest, context: Context
    ) -> run_store_pb2.RerunRunResponse:
        space, phase = await self._space(request), request.initial_phase or Phase.PENDING
        if phase not in (Phase.PENDING, Phase.RUNNING):
            raise InvalidField(field="initial_phase", problem="must be PENDING or RUNNING")
        request_id = self._fields.text(request.request_id, "request_id")
        run_id = optional_uuid(request.new_run_id, "new_run_id")
        if run_id is None:
            run_id = run_id_for_request(space.namespace, request_id, "RerunRun") if request_id else uuid7()
        source = await runs.read(self._database, await self._refs.read(request))
        if not source.run.driven:
            raise errors.RunNotDriven(run_id=source.run.run_id)
        details = unpack_details(source.run.details)
        if details.is_purged:
            raise errors.RunPurged(run_id=source.run.run_id, archive_uri=details.archive_uri)
        origins = await run_origins.read(self._database, [source.run.run_key])
        traces = telemetry.new_traceparent(context.invocation_metadata() or (), type=source.run.type)
        new = msgspec.structs.replace(
            again(space, source, origins.get(source.run.run_key), traces),
            run_id=run_id,
            phase=phase,
            workflow_id=self._fields.text(request.new_workflow_id, "new_workflow_id"),
            correlation_id=self._fields.text(request.correlation_id, "correlation_id") or source.run.correlation_id,
        )
        request_hash = content_hash(request, space.namespace) if request_id else None
        command = StartRun(new, Reuse.REJECT, request_id=request_id, request_hash=request_hash, method="RerunRun")
        started = await self._committers.do(Started, command, len(source.input.body), remaining())
        return run_store_pb2.RerunRunResponse(run_id=str(started.run_id), created=started.started)


def again(space: RunRef, source: WholeRun, origin: RunOrigin | None, traces: tuple[str, str]) -> NewRun:
    """A run as another one was, but for its names, its times, its parent and its idempotency key."""
    run = source.run
    kept = origin or RunOrigin(0, run.namespace_id)
    return msgspec.structs.replace(
        alike(source, space.namespace),
        traceparent=traces[0],
        tracestate=traces[1],
        driven=True,
        managed=run.managed,
        origin=msgspec.structs.replace(kept, idempotency_key="", source_run_id=run.run_id),
    )


def origin_from_proto(
    request: run_store_pb2.CreateRunRequest, space: RunRef, source_run_id: UUID | None, fields: Fields
) -> RunOrigin | None:
    """Reads what set a run off, or None if nothing is said of that."""
    if not request.HasField("origin") and source_run_id is None:
        return None
    if request.origin.idempotency_key:
        # Its trigger is a part of it.
        folded_name(fields, request.origin, "idempotency_key", "origin.")
        folded_name(fields, request.origin, "trigger_key", "origin.")
    return RunOrigin(
        0,
        space.namespace_id or 0,
        title=fields.text(request.origin.title, "title", "origin."),
        trigger_key=fields.text(request.origin.trigger_key, "trigger_key", "origin."),
        idempotency_key=fields.text(request.origin.idempotency_key, "idempotency_key", "origin."),
        source_run_id=source_run_id,
    )
