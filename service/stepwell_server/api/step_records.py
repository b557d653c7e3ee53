"""The part of StepStore that is about claims, attempts, skips and retries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import runs_pb2, step_store_pb2, step_store_pb2_grpc, types_pb2
from stepwell_server.api.fields import seconds, time
from stepwell_server.api.page import InRun, read_page
from stepwell_server.api.payloads import failure_from_proto, payload_from_proto
from stepwell_server.api.run_values import step_to_proto, time_to_proto
from stepwell_server.api.stores import StoreCalls
from stepwell_server.engine import step_claims, step_records, step_retries
from stepwell_server.engine.driven_steps import StepAnswer
from stepwell_server.engine.step_claims import StepClaim
from stepwell_server.engine.step_retries import Retried
from stepwell_server.errors import InvalidField
from stepwell_server.model.steps import ClosedStep, Step, StepState, unpack_step_details
from stepwell_server.store import step_store

if TYPE_CHECKING:
    from stepwell_server.store.steps import SeenStep

    Context = grpc.aio.ServicerContext[Any, Any]

_SHORTEST_LEASE = 0.001
_OUTCOMES = (StepState.COMPLETED, StepState.FAILED, StepState.SKIPPED, StepState.WAITING)


class StepRecords(StoreCalls, step_store_pb2_grpc.StepStoreServicer):
    """Claims steps, and records their attempts."""

    async def ClaimStep(
        self, request: step_store_pb2.ClaimStepRequest, context: Context
    ) -> step_store_pb2.ClaimStepResponse:
        step_name = self._fields.name(request.step_name, "step_name")
        owner_id = self._fields.name(request.owner_id, "owner_id")
        lease, now = seconds(request, "lease_duration", at_least=_SHORTEST_LEASE), time(request, "now")
        ref = await self._refs.read(request)
        command = step_claims.ClaimStep(ref, step_name, owner_id, lease, now, request.token)
        claim = await self._do(StepClaim, command, request)
        expire_time = time_to_proto(claim.expire_time)
        return step_store_pb2.ClaimStepResponse(
            claimed=claim.claimed, claim_token=claim.token, lease_expire_time=expire_time
        )

    async def RenewStepClaim(
        self, request: step_store_pb2.RenewStepClaimRequest, context: Context
    ) -> step_store_pb2.RenewStepClaimResponse:
        step_name = self._fields.name(request.step_name, "step_name")
        owner_id = self._fields.name(request.owner_id, "owner_id")
        lease, now = seconds(request, "lease_duration", at_least=_SHORTEST_LEASE), time(request, "now")
        if lease is None:
            raise InvalidField(field="lease_duration", problem="is required: say how long the lease holds")
        ref = await self._refs.read(request)
        command = step_claims.RenewStepClaim(ref, step_name, owner_id, request.claim_token, lease, now)
        claim = await self._do(StepClaim, command, request)
        expire_time = time_to_proto(claim.expire_time)
        return step_store_pb2.RenewStepClaimResponse(renewed=claim.claimed, lease_expire_time=expire_time)

    async def ReleaseStepClaim(
        self, request: step_store_pb2.ReleaseStepClaimRequest, context: Context
    ) -> step_store_pb2.ReleaseStepClaimResponse:
        step_name = self._fields.name(request.step_name, "step_name")
        owner_id = self._fields.text(request.owner_id, "owner_id")
        ref = await self._refs.read(request)
        command = step_claims.ReleaseStepClaim(ref, step_name, owner_id, request.claim_token)
        return step_store_pb2.ReleaseStepClaimResponse(released=await self._do(bool, command, request))

    async def ListClaimedSteps(
        self, request: step_store_pb2.ListClaimedStepsRequest, context: Context
    ) -> step_store_pb2.ListClaimedStepsResponse:
        page, run = read_page(request, InRun, self._fields.limits), await self._seek(request)
        if run is None:
            return step_store_pb2.ListClaimedStepsResponse()
        found = await step_store.claimed(self._database, run.run_key, page.after or 0, page.fetch)
        shown = found[: page.size]
        token = page.token(shown[-1].ordinal) if len(found) > page.size else ""
        return step_store_pb2.ListClaimedStepsResponse(claims=map(claim_to_proto, shown), next_page_token=token)

    async def RecordStepStart(
        self, request: step_store_pb2.RecordStepStartRequest, context: Context
    ) -> step_store_pb2.RecordStepStartResponse:
        fields, ref = self._fields, await self._refs.read(request)
        command = step_records.RecordStepStart(
            ref,
            step_name=fields.name(request.step_name, "step_name"),
            type=fields.text(request.type, "type"),
            payload=payload_from_proto(request.input, fields, "input"),
            job_id=fields.text(request.job_id, "job_id"),
            token=request.token,
            claim_token=request.claim_token,
        )
        answer = await self._do(StepAnswer, command, request)
        return step_store_pb2.RecordStepStartResponse(step=await self._rendered(answer.step))

    async def RecordStepComplete(
        self, request: step_store_pb2.RecordStepCompleteRequest, context: Context
    ) -> step_store_pb2.RecordStepCompleteResponse:
        fields, ref = self._fields, await self._refs.read(request)
        state = fields.member(request.state, types_pb2.StepState, "state", required=True)
        if state not in _OUTCOMES:
            raise InvalidField(field="state", problem="must be COMPLETED, FAILED, SKIPPED or WAITING")
        failure = failure_from_proto(request.failure, fields, "failure") if request.HasField("failure") else None
        if failure is not None and state == StepState.COMPLETED:
            raise InvalidField(field="failure", problem="is for what did not succeed: leave it out")
        command = step_records.RecordStepComplete(
            ref,
            step_name=fields.name(request.step_name, "step_name"),
            state=state,
            payload=payload_from_proto(request.result, fields, "result"),
            failure=failure,
            token=request.token,
            claim_token=request.claim_token,
        )
        answer = await self._do(StepAnswer, command, request)
        return step_store_pb2.RecordStepCompleteResponse(step=await self._rendered(answer.step))

    async def RecordSkippedStep(
        self, request: step_store_pb2.RecordSkippedStepRequest, context: Context
    ) -> step_store_pb2.RecordSkippedStepResponse:
        fields, ref = self._fields, await self._refs.read(request)
        command = step_records.RecordSkippedStep(
            ref,
            step_name=fields.name(request.step_name, "step_name"),
            type=fields.text(request.type, "type"),
            reason=fields.remark(request.reason, "reason"),
            cause=fields.member(request.cause, runs_pb2.Step.Skip.Cause, "cause"),
            trace=payload_from_proto(request.evaluation_trace, fields, "evaluation_trace"),
            blocked_by=fields.names(request.blocked_by, "blocked_by"),
            token=request.token,
            claim_token=request.claim_token,
        )
        answer = await self._do(StepAnswer, command, request)
        return step_store_pb2.RecordSkippedStepResponse(step=await self._rendered(answer.step))

    async def RetryStep(
        self, request: step_store_pb2.RetryStepRequest, context: Context
    ) -> step_store_pb2.RetryStepResponse:
        step_name = self._fields.name(request.step_name, "step_name")
        dependents = frozenset(self._fields.names(request.dependents, "dependents"))
        ref = await self._refs.read(request)
        command = step_retries.RetryStep(ref, step_name, dependents, request.follow_blocked, request.token)
        answer = await self._do(Retried, command, request)
        return step_store_pb2.RetryStepResponse(
            step=await self._rendered(answer.step),
            phase=types_pb2.RunPhase.ValueType(answer.phase),
            reset_steps=answer.reset,
        )

    async def _rendered(self, step: Step | ClosedStep) -> runs_pb2.Step:
        """A step as a decision left it, with its payloads."""
        return step_to_proto(await step_store.read_payloads(self._database, step))


def claim_to_proto(step: SeenStep) -> step_store_pb2.ListClaimedStepsResponse.Claim:
    """Renders who has a step."""
    details = unpack_step_details(step.details)
    return step_store_pb2.ListClaimedStepsResponse.Claim(
        step_name=step.key or step.name,
        owner_id=step.owner_id,
        state=types_pb2.StepState.ValueType(step.state),
        claim_time=time_to_proto(details.claim_time),
        lease_expire_time=time_to_proto(details.claim_expire_time),
    )
