"""RunStore: creating, claiming and moving driven runs. What is about many runs is in `run_store_sets`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import run_store_pb2, run_store_pb2_grpc, types_pb2
from stepwell_server import telemetry
from stepwell_server.api.fields import optional_uuid, seconds, time
from stepwell_server.api.interceptors.deadlines import remaining
from stepwell_server.api.payloads import failure_from_proto, payload_from_proto
from stepwell_server.api.run_data import data_from_proto
from stepwell_server.api.run_derived import DerivedRuns, origin_from_proto
from stepwell_server.api.run_details import RunDetailCalls
from stepwell_server.api.run_starts import (
    DEFAULT_QUEUE,
    content_hash,
    definition_from_proto,
    first_attributes,
    label_of,
    policy_from_proto,
    size_of,
    type_from_proto,
)
from stepwell_server.api.run_store_data import RunDataCalls
from stepwell_server.api.run_store_sets import RunSets
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.engine import claims, driven_runs
from stepwell_server.engine.driven import Moved
from stepwell_server.engine.starts import NewRun, Reuse, Started, StartRun
from stepwell_server.errors import InvalidField
from stepwell_server.ids import run_id_for_request, uuid7
from stepwell_server.model.payloads import Failure
from stepwell_server.model.runs import Phase, RunDetails, RunRef
from stepwell_server.store import runs

if TYPE_CHECKING:
    from stepwell_server.engine.commands import Command

    Context = grpc.aio.ServicerContext[Any, Any]

_SHORTEST_LEASE = 0.001


class RunStoreCalls(RunDetailCalls, DerivedRuns, RunSets, RunDataCalls, run_store_pb2_grpc.RunStoreServicer):
    """Driven runs, one at a time."""

    async def CreateRun(
        self, request: run_store_pb2.CreateRunRequest, context: Context
    ) -> run_store_pb2.CreateRunResponse:
        space = await self._space(request)
        command = await self._creation(request, space, context)
        started = await self._committers.do(Started, command, size_of(request), remaining())
        return run_store_pb2.CreateRunResponse(run_id=str(started.run_id), created=started.started)

    async def ReadRun(self, request: run_store_pb2.ReadRunRequest, context: Context) -> run_store_pb2.ReadRunResponse:
        data_names = self._fields.names(request.data_names, "data_names")
        found = await self._seek(request)
        if found is None:
            return run_store_pb2.ReadRunResponse(found=False)
        run = await self._whole(RunRef(found.namespace_id, request.namespace, run_key=found.run_key), data_names)
        return run_store_pb2.ReadRunResponse(found=True, run=run)

    async def ClaimRun(
        self, request: run_store_pb2.ClaimRunRequest, context: Context
    ) -> run_store_pb2.ClaimRunResponse:
        owner_id = self._fields.name(request.owner_id, "owner_id")
        lease = seconds(request, "lease_duration", at_least=_SHORTEST_LEASE)
        command = claims.ClaimRun(await self._refs.read(request), owner_id, lease, time(request, "now"))
        claim = await self._do(claims.RunClaim, command, request)
        return run_store_pb2.ClaimRunResponse(
            claimed=claim.claimed,
            token=claim.token,
            lease_expire_time=time_to_proto(claim.expire_time),
            run_id=str(claim.run_id),
            phase=types_pb2.RunPhase.ValueType(claim.phase),
        )

    async def RenewRunLease(
        self, request: run_store_pb2.RenewRunLeaseRequest, context: Context
    ) -> run_store_pb2.RenewRunLeaseResponse:
        owner_id = self._fields.name(request.owner_id, "owner_id")
        lease = seconds(request, "lease_duration", at_least=_SHORTEST_LEASE)
        if lease is None:
            raise InvalidField(field="lease_duration", problem="is required: say how long the lease holds")
        ref, now = await self._refs.read(request), time(request, "now")
        claim = await self._do(claims.RunClaim, claims.RenewRunLease(ref, owner_id, request.token, lease, now), request)
        return run_store_pb2.RenewRunLeaseResponse(
            renewed=claim.claimed, lease_expire_time=time_to_proto(claim.expire_time)
        )

    async def ReleaseRun(
        self, request: run_store_pb2.ReleaseRunRequest, context: Context
    ) -> run_store_pb2.ReleaseRunResponse:
        owner_id = self._fields.name(request.owner_id, "owner_id")
        command = claims.ReleaseRun(await self._refs.read(request), owner_id, request.token)
        return run_store_pb2.ReleaseRunResponse(released=await self._do(bool, command, request))

    async def SetRunPhase(
        self, request: run_store_pb2.SetRunPhaseRequest, context: Context
    ) -> run_store_pb2.SetRunPhaseResponse:
        phase = self._fields.member(request.phase, types_pb2.RunPhase, "phase", required=True)
        result, failure = payload_from_proto(request.result, self._fields, "result"), self._failure(request)
        if request.HasField("result") and phase != Phase.COMPLETED:
            raise InvalidField(field="result", problem="is for phase COMPLETED: leave it out")
        if failure is not None and phase <= Phase.COMPLETED:
            raise InvalidField(field="failure", problem="is for the phases of an end that is no success: leave it out")
        ref = await self._refs.read(request)
        answer = await self._move(driven_runs.SetRunPhase(ref, phase, result, failure, request.token), request)
        return run_store_pb2.SetRunPhaseResponse(changed=answer.done, phase=_phase(answer))

    async def MarkRunRunning(
        self, request: run_store_pb2.MarkRunRunningRequest, context: Context
    ) -> run_store_pb2.MarkRunRunningResponse:
        step_name = self._fields.text(request.step_name, "step_name")
        command = driven_runs.MarkRunRunning(await self._refs.read(request), step_name, request.token)
        return run_store_pb2.MarkRunRunningResponse(changed=(await self._move(command, request)).done)

    async def MarkRunCompleted(
        self, request: run_store_pb2.MarkRunCompletedRequest, context: Context
    ) -> run_store_pb2.MarkRunCompletedResponse:
        result = payload_from_proto(request.result, self._fields, "result")
        command = driven_runs.MarkRunCompleted(await self._refs.read(request), result, request.token)
        answer = await self._move(command, request)
        return run_store_pb2.MarkRunCompletedResponse(run_id=str(answer.run_id))

    async def MarkRunFailed(
        self, request: run_store_pb2.MarkRunFailedRequest, context: Context
    ) -> run_store_pb2.MarkRunFailedResponse:
        failure = self._failure(request) or Failure("failed")
        ref = await self._refs.read(request)
        answer = await self._move(driven_runs.MarkRunFailed(ref, failure, request.terminal, request.token), request)
        return run_store_pb2.MarkRunFailedResponse(phase=_phase(answer))

    async def ResumeRunWith(
        self, request: run_store_pb2.ResumeRunWithRequest, context: Context
    ) -> run_store_pb2.ResumeRunWithResponse:
        data = payload_from_proto(request.data, self._fields, "data")
        command = driven_runs.ResumeRunWith(await self._refs.read(request), data, request.token)
        return run_store_pb2.ResumeRunWithResponse(resumed=(await self._move(command, request)).done)

    async def SuspendRun(
        self, request: run_store_pb2.SuspendRunRequest, context: Context
    ) -> run_store_pb2.SuspendRunResponse:
        step_name = self._fields.name(request.step_name, "step_name")
        until = time(request, "wake_time")
        if until is None:
            raise InvalidField(field="wake_time", problem="is required: say when the run is due")
        data = payload_from_proto(request.data, self._fields, "data")
        ref = await self._refs.read(request)
        answer = await self._move(driven_runs.SuspendRun(ref, step_name, until, data, request.token), request)
        return run_store_pb2.SuspendRunResponse(run_id=str(answer.run_id))

    async def CancelDrivenRun(
        self, request: run_store_pb2.CancelDrivenRunRequest, context: Context
    ) -> run_store_pb2.CancelDrivenRunResponse:
        reason = self._fields.remark(request.reason, "reason") or "cancelled"
        answer = await self._move(driven_runs.CancelDrivenRun(await self._refs.read(request), reason), request)
        return run_store_pb2.CancelDrivenRunResponse(accepted=answer.done, phase=_phase(answer))

    async def RewindToStep(
        self, request: run_store_pb2.RewindToStepRequest, context: Context
    ) -> run_store_pb2.RewindToStepResponse:
        step_name = self._fields.name(request.step_name, "step_name")
        command = driven_runs.RewindToStep(await self._refs.read(request), step_name, request.token)
        removed = (await self._do(driven_runs.Rewound, command, request)).removed
        return run_store_pb2.RewindToStepResponse(rewound=removed > 0, removed_count=removed)

    async def _move(self, command: Command, request: Any) -> Moved:  # noqa: ANN401 - any request
        return await self._do(Moved, command, request)

    def _failure(self, request: Any) -> Failure | None:  # noqa: ANN401 - any request with a failure
        return failure_from_proto(request.failure, self._fields, "failure") if request.HasField("failure") else None

    async def _creation(self, request: run_store_pb2.CreateRunRequest, space: RunRef, context: Context) -> StartRun:
        fields, phase = self._fields, request.initial_phase or Phase.PENDING
        if phase not in (Phase.PENDING, Phase.RUNNING):
            raise InvalidField(field="initial_phase", problem="must be PENDING or RUNNING")
        request_id = fields.text(request.request_id, "request_id")
        run_id = optional_uuid(request.run_id, "run_id")
        source_run_id = optional_uuid(request.source_run_id, "source_run_id")
        origin = origin_from_proto(request, space, source_run_id, fields)
        if run_id is None and request_id:
            run_id = run_id_for_request(space.namespace, request_id)
        definition = definition_from_proto(request, fields)
        # A registered key is one of the type's, which must be known when it is looked up.
        needs_type = definition is None or request.origin.idempotency_key
        workflow_type = type_from_proto(request, None if needs_type else definition, fields)
        policy = policy_from_proto(request.cancellation_policy)
        traceparent, tracestate = telemetry.new_traceparent(
            context.invocation_metadata() or (), type=label_of(workflow_type, definition)
        )
        parent = await self._parent(request, space)
        new = NewRun(
            namespace_id=space.namespace_id or 0,
            namespace=space.namespace,
            type=workflow_type,
            task_queue=fields.text(request.task_queue, "task_queue") or DEFAULT_QUEUE,
            run_id=run_id or (uuid7() if request.origin.idempotency_key else None),
            workflow_id=fields.text(request.workflow_id, "workflow_id"),
            input=payload_from_proto(request.input, fields, "input"),
            correlation_id=fields.text(request.correlation_id, "correlation_id"),
            traceparent=traceparent,
            tracestate=tracestate,
            timeout_seconds=seconds(request, "ttl") or None,
            driven=True,
            managed=request.managed,
            phase=phase,
            parent_key=parent.run_key if parent is not None else None,
            details=RunDetails(source_run_id=str(source_run_id or ""), **_parentage(parent), **policy),
            origin=origin,
            search_attributes=first_attributes(request, fields),
            definition=definition,
            data=data_from_proto(request.data, fields),
        )
        request_hash = content_hash(request, space.namespace) if request_id else None
        return StartRun(new, Reuse.REJECT, request_id=request_id, request_hash=request_hash, method="CreateRun")

    async def _parent(self, request: run_store_pb2.CreateRunRequest, space: RunRef) -> runs.SeenRun | None:
        run_id = optional_uuid(request.parent_run_id, "parent_run_id")
        workflow_id = self._fields.text(request.parent_workflow_id, "parent_workflow_id")
        if run_id is None and not workflow_id:
            return None
        return await runs.find(
            self._database, RunRef(space.namespace_id, space.namespace, run_id=run_id, workflow_id=workflow_id)
        )


def _phase(answer: Moved) -> types_pb2.RunPhase.ValueType:
    return types_pb2.RunPhase.ValueType(answer.phase)


def _parentage(parent: runs.SeenRun | None) -> dict[str, Any]:
    if parent is None:
        return {}
    return {"parent_run_id": str(parent.run_id), "parent_workflow_id": parent.workflow_id}
