"""RunService: a new run from an earlier place of another's record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio
from msgspec.structs import replace

from stepwell.v1 import repairs_pb2
from stepwell_server import errors, telemetry
from stepwell_server.api.fields import optional_uuid
from stepwell_server.api.interceptors.deadlines import remaining
from stepwell_server.api.run_mends import step_name_from_proto
from stepwell_server.api.run_starts import alike, content_hash, size_of
from stepwell_server.engine.copying import Copied, CopiedStep
from stepwell_server.engine.forking import before, copied_of
from stepwell_server.engine.starts import NewRun, Started, StartRun
from stepwell_server.ids import run_id_for_request
from stepwell_server.model.driven import RunOrigin
from stepwell_server.model.runs import unpack_details
from stepwell_server.store import forks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stepwell_server.api.fields import Fields
    from stepwell_server.api.run_values import RunRefs
    from stepwell_server.engine.committer import Committers
    from stepwell_server.engine.mending import StepName
    from stepwell_server.model.steps import ClosedStep
    from stepwell_server.store.database import Database
    from stepwell_server.store.forks import Record
    from stepwell_server.store.namespaces import Namespaces
    from stepwell_server.store.runs import SeenRun, WholeRun

    Context = grpc.aio.ServicerContext[Any, Any]


class RunForks:
    """The forking part of RunService."""

    _committers: Committers
    _database: Database
    _fields: Fields
    _namespaces: Namespaces
    _refs: RunRefs

    async def ForkRun(self, request: repairs_pb2.ForkRunRequest, context: Context) -> repairs_pb2.ForkRunResponse:
        ref = await self._refs.read(request)
        step = step_name_from_proto(request.step, self._fields, "step.")
        request_id = self._fields.text(request.request_id, "request_id")
        run_id = optional_uuid(request.new_run_id, "new_run_id")
        workflow_id = self._fields.text(request.new_workflow_id, "new_workflow_id")
        whole, chosen, had = await forks.read(self._database, ref, choosing(step))
        namespace = await self._namespaces.name_of(whole.run.namespace_id)
        if run_id is None and request_id:
            run_id = run_id_for_request(namespace, request_id, "ForkRun")
        copied = copied_of((CopiedStep(each, *told) for each, told in chosen), had)
        size = size_of(request) + sum(len(each.payload.body) for each in copied.steps)
        if size > self._fields.limits.message_bytes:
            raise errors.LimitExceeded(limit="message_bytes", value=size, maximum=self._fields.limits.message_bytes)
        metadata = context.invocation_metadata() or ()
        traceparent, tracestate = telemetry.new_traceparent(metadata, type=whole.run.type)
        new = new_run(whole, namespace, copied)
        new = replace(new, run_id=run_id, workflow_id=workflow_id, traceparent=traceparent, tracestate=tracestate)
        hash_ = content_hash(request, namespace) if request_id else None
        command = StartRun(new, request_id=request_id, request_hash=hash_, method="ForkRun")
        started = await self._committers.do(Started, command, size, remaining())
        count = len(copied.steps) if started.started else 0
        return repairs_pb2.ForkRunResponse(run_id=str(started.run_id), started=started.started, copied_count=count)


def choosing(target: StepName) -> Callable[[SeenRun, Record], Sequence[ClosedStep]]:
    """What of a record is copied. Refuses with RUN_DRIVEN or RUN_PURGED, and as `before`."""

    def choose(run: SeenRun, record: Record) -> Sequence[ClosedStep]:
        details = unpack_details(run.details)
        if run.driven:
            raise errors.RunDriven(run_id=run.run_id)
        if details.is_purged:
            raise errors.RunPurged(run_id=run.run_id, archive_uri=details.archive_uri)
        return before(record, target, run.run_id, run.cancel_time)

    return choose


def new_run(whole: WholeRun, namespace: str, copied: Copied) -> NewRun:
    """The new run, alike the one that it comes from."""
    run, details = whole.run, unpack_details(whole.run.details)
    # Of a run that was opened again both the deadline and what counts towards it are of that time.
    began = details.reopen_time or run.create_time
    new = alike(whole, namespace)
    return replace(
        new,
        priority=run.priority,
        correlation_id=run.correlation_id,
        timeout_seconds=None if run.deadline is None else (run.deadline - began).total_seconds(),
        details=replace(new.details, retry=details.retry),
        origin=RunOrigin(0, run.namespace_id, source_run_id=run.run_id),
        copied=copied,
    )
