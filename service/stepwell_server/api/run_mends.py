"""RunService: going on with a run from an earlier place of its record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import repairs_pb2, types_pb2
from stepwell_server.api import fields as checks
from stepwell_server.api.interceptors.deadlines import remaining
from stepwell_server.api.payloads import failure_from_proto, payload_from_proto
from stepwell_server.api.reports import branch_path
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_starts import size_of
from stepwell_server.engine.mending import Mended, RetryRun, RewindRun, StepName
from stepwell_server.engine.settling import EndStep, RetryStepNow, Settled
from stepwell_server.errors import InvalidField
from stepwell_server.ids import ORDINALS
from stepwell_server.model.steps import StepState

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from stepwell_server.api.fields import Fields
    from stepwell_server.api.run_values import RunRefs
    from stepwell_server.engine.commands import Command
    from stepwell_server.engine.committer import Committers
    from stepwell_server.model.runs import RunRef

    Context = grpc.aio.ServicerContext[Any, Any]


class RunMends:
    """The mending part of RunService."""

    _committers: Committers
    _fields: Fields
    _refs: RunRefs

    async def RetryRun(self, request: repairs_pb2.RetryRunRequest, context: Context) -> repairs_pb2.RetryRunResponse:
        ordinals = self._fields.items(request.step_ordinals, "step_ordinals")
        for place, ordinal in enumerate(ordinals):
            checks.integer(ordinal, f"step_ordinals[{place}]", at_least=1, at_most=ORDINALS - 1)
        command = RetryRun(
            await self._refs.read(request),
            tuple(dict.fromkeys(ordinals)),
            self._fields.remark(request.reason, "reason"),
        )
        mended = await self._mend(command, request)
        return repairs_pb2.RetryRunResponse(
            run_id=str(mended.run_id),
            phase=types_pb2.RunPhase.ValueType(mended.phase),
            removed_count=mended.removed_count,
            removed=removed_to_proto(mended),
        )

    async def RewindRun(self, request: repairs_pb2.RewindRunRequest, context: Context) -> repairs_pb2.RewindRunResponse:
        command = RewindRun(
            await self._refs.read(request),
            step_name_from_proto(request.step, self._fields, "step."),
            self._fields.remark(request.reason, "reason"),
        )
        mended = await self._mend(command, request)
        return repairs_pb2.RewindRunResponse(
            run_id=str(mended.run_id),
            phase=types_pb2.RunPhase.ValueType(mended.phase),
            removed_count=mended.removed_count,
            removed=removed_to_proto(mended),
        )

    async def SettleRunStep(
        self, request: repairs_pb2.SettleRunStepRequest, context: Context
    ) -> repairs_pb2.SettleRunStepResponse:
        command = settling_from_proto(request, await self._refs.read(request), self._fields)
        asked = asked_of(request, command.ref.namespace_id, Settled, self._fields)
        settled = await self._committers.do(Settled, command, size_of(request), remaining(), asked)
        state = types_pb2.StepState.ValueType(settled.state)
        return repairs_pb2.SettleRunStepResponse(accepted=settled.accepted, step_ordinal=settled.ordinal, state=state)

    async def _mend(self, command: Command, request: Message) -> Mended:
        asked = asked_of(request, command.ref.namespace_id, Mended, self._fields)
        return await self._committers.do(Mended, command, seconds=remaining(), asked=asked)


def settling_from_proto(
    request: repairs_pb2.SettleRunStepRequest, ref: RunRef, fields: Fields
) -> EndStep | RetryStepNow:
    """Reads what becomes of a step."""
    step = step_name_from_proto(request.step, fields, "step.")
    reason = fields.remark(request.reason, "reason")
    match request.WhichOneof("outcome"):
        case "complete":
            payload = payload_from_proto(request.complete.result, fields, "complete.result")
            return EndStep(ref, step, StepState.COMPLETED, reason, payload)
        case "fail":
            failure = failure_from_proto(request.fail.failure, fields, "fail.failure")
            if not failure.message:
                raise InvalidField(field="fail.failure.message", problem="is required: say why")
            return EndStep(ref, step, StepState.FAILED, reason, failure=failure)
        case "skip":
            return EndStep(ref, step, StepState.SKIPPED, reason)
        case "retry":
            return RetryStepNow(ref, step, reason)
    raise InvalidField(field="outcome", problem="is required: complete, fail, skip or retry")


def step_name_from_proto(step: repairs_pb2.StepName, fields: Fields, at: str) -> StepName:
    """Reads which step is meant: by its ordinal, or by branch and name."""
    if step.ordinal:
        if step.scope or step.name or step.occurrence or step.key:
            raise InvalidField(field=f"{at}ordinal", problem="names the step: leave the other fields out")
        return StepName(checks.integer(step.ordinal, "ordinal", at, at_least=1, at_most=ORDINALS - 1))
    if not step.name:
        raise InvalidField(field=f"{at}ordinal", problem="is required, or else name")
    if step.key and step.occurrence:
        raise InvalidField(field=f"{at}key", problem="stands in place of the occurrence: give one of the two")
    return StepName(
        0,
        branch_path(step.scope, at),
        fields.name(step.name, "name", at),
        checks.integer(step.occurrence, "occurrence", at, at_most=ORDINALS - 1),
        fields.text(step.key, "key", at),
    )


def removed_to_proto(mended: Mended) -> list[repairs_pb2.RemovedStep]:
    """Renders which steps were taken out."""
    return [repairs_pb2.RemovedStep(ordinal=step.ordinal, scope=step.scope, name=step.name) for step in mended.removed]
