"""StepStore: steps of driven runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import step_store_pb2, step_store_pb2_grpc, types_pb2
from stepwell_server.api.page import InRun, read_page
from stepwell_server.api.payloads import failure_from_proto, payload_from_proto, payload_to_proto
from stepwell_server.api.run_values import MESSAGE_MARGIN, step_to_proto
from stepwell_server.api.step_records import StepRecords
from stepwell_server.engine import driven_steps
from stepwell_server.engine.driven_steps import StepAnswer, identity_of
from stepwell_server.ids import pack
from stepwell_server.model.filters import Comparison, Op
from stepwell_server.model.payloads import NULL
from stepwell_server.model.steps import Kind, StepState
from stepwell_server.store import step_store, steps

if TYPE_CHECKING:
    from stepwell.v1 import runs_pb2
    from stepwell_server.api.run_values import NamesRun
    from stepwell_server.store.steps import WholeStep

    Context = grpc.aio.ServicerContext[Any, Any]

_COMPLETED = steps.StepFilter((int(StepState.COMPLETED),), Comparison("kind", Op.EQUAL, int(Kind.LOCAL)))


class StepStoreCalls(StepRecords, step_store_pb2_grpc.StepStoreServicer):
    """Begins, ends, saves and reads steps."""

    async def BeginStep(
        self, request: step_store_pb2.BeginStepRequest, context: Context
    ) -> step_store_pb2.BeginStepResponse:
        step_name = self._fields.name(request.step_name, "step_name")
        owner_id = self._fields.text(request.owner_id, "owner_id")
        payload = payload_from_proto(request.input, self._fields, "input")
        ref = await self._refs.read(request)
        command = driven_steps.BeginStep(ref, step_name, payload, owner_id, request.token)
        answer = await self._do(StepAnswer, command, request)
        outcomes = step_store_pb2.BeginStepResponse
        outcome = outcomes.OUTCOME_EXECUTE if answer.done else outcomes.OUTCOME_SKIP
        return step_store_pb2.BeginStepResponse(outcome=outcome, step=await self._shown(answer))

    async def ScheduleStep(
        self, request: step_store_pb2.ScheduleStepRequest, context: Context
    ) -> step_store_pb2.ScheduleStepResponse:
        step_name = self._fields.name(request.step_name, "step_name")
        payload = payload_from_proto(request.input, self._fields, "input")
        command = driven_steps.ScheduleStep(await self._refs.read(request), step_name, payload, request.token)
        answer = await self._do(StepAnswer, command, request)
        outcomes = step_store_pb2.ScheduleStepResponse
        outcome = outcomes.OUTCOME_SCHEDULE if answer.done else outcomes.OUTCOME_SKIP
        return step_store_pb2.ScheduleStepResponse(outcome=outcome, step=await self._shown(answer))

    async def CompleteStep(
        self, request: step_store_pb2.CompleteStepRequest, context: Context
    ) -> step_store_pb2.CompleteStepResponse:
        ref, ordinal = await self._numbered(request, request.step_number, "step_number")
        payload = payload_from_proto(request.result, self._fields, "result")
        command = driven_steps.EndStep(ref, ordinal, payload, None, request.token, request.claim_token)
        answer = await self._do(StepAnswer, command, request)
        return step_store_pb2.CompleteStepResponse(step=await self._shown(answer), run_id=str(answer.run_id))

    async def FailStep(
        self, request: step_store_pb2.FailStepRequest, context: Context
    ) -> step_store_pb2.FailStepResponse:
        ref, ordinal = await self._numbered(request, request.step_number, "step_number")
        failure = failure_from_proto(request.failure, self._fields, "failure")
        command = driven_steps.EndStep(ref, ordinal, NULL, failure, request.token, request.claim_token)
        answer = await self._do(StepAnswer, command, request)
        return step_store_pb2.FailStepResponse(step=await self._shown(answer), run_id=str(answer.run_id))

    async def SaveStep(
        self, request: step_store_pb2.SaveStepRequest, context: Context
    ) -> step_store_pb2.SaveStepResponse:
        step_name = self._fields.name(request.step_name, "step_name")
        payload = payload_from_proto(request.value, self._fields, "value")
        command = driven_steps.SaveStep(await self._refs.read(request), step_name, payload, request.token)
        answer = await self._do(StepAnswer, command, request)
        number = pack(answer.step.run_key, answer.step.ordinal)
        return step_store_pb2.SaveStepResponse(replaced=answer.done, step_number=number)

    async def GetStep(self, request: step_store_pb2.GetStepRequest, context: Context) -> step_store_pb2.GetStepResponse:
        step = await self._read(request, request.step_name)
        if step is None:
            return step_store_pb2.GetStepResponse(found=False)
        return step_store_pb2.GetStepResponse(found=True, step=step_to_proto(step))

    async def ReadStep(
        self, request: step_store_pb2.ReadStepRequest, context: Context
    ) -> step_store_pb2.ReadStepResponse:
        step = await self._read(request, request.step_name)
        if step is None or step.step.state != StepState.COMPLETED:
            return step_store_pb2.ReadStepResponse(found=False)
        return step_store_pb2.ReadStepResponse(found=True, value=payload_to_proto(step.result))

    async def ListCompletedSteps(
        self, request: step_store_pb2.ListCompletedStepsRequest, context: Context
    ) -> step_store_pb2.ListCompletedStepsResponse:
        page, run = read_page(request, InRun, self._fields.limits), await self._seek(request)
        if run is None:
            return step_store_pb2.ListCompletedStepsResponse()
        listed = await step_store.completed(
            self._database, run.run_key, after=page.after or 0, most=page.size, most_bytes=self._most_bytes
        )
        token = page.token(listed.steps[-1].step.end_event) if listed.has_more else ""
        shown = [step_to_proto(step) for step in listed.steps]
        return step_store_pb2.ListCompletedStepsResponse(steps=shown, next_page_token=token)

    async def ListStepStates(
        self, request: step_store_pb2.ListStepStatesRequest, context: Context
    ) -> step_store_pb2.ListStepStatesResponse:
        page, run = read_page(request, InRun, self._fields.limits), await self._seek(request)
        if run is None:
            return step_store_pb2.ListStepStatesResponse()
        found = await step_store.states(self._database, run.run_key, page.after or 0, page.fetch)
        shown = found[: page.size]
        token = page.token(shown[-1][0]) if len(found) > page.size else ""
        entry = step_store_pb2.ListStepStatesResponse.Entry
        entries = [entry(step_name=name, state=types_pb2.StepState.ValueType(state)) for _, name, state in shown]
        return step_store_pb2.ListStepStatesResponse(entries=entries, next_page_token=token)

    async def ListSteps(
        self, request: step_store_pb2.ListStepsRequest, context: Context
    ) -> step_store_pb2.ListStepsResponse:
        page, run = read_page(request, tuple[int], self._fields.limits), await self._seek(request)
        if run is None:
            return step_store_pb2.ListStepsResponse()
        listed = await steps.page(self._database, run.run_key, _COMPLETED, page.after, page.size, self._most_bytes)
        token = page.token((listed.steps[-1].step.ordinal,)) if listed.has_more else ""
        shown = [step_to_proto(step) for step in listed.steps]
        return step_store_pb2.ListStepsResponse(steps=shown, next_page_token=token)

    @property
    def _most_bytes(self) -> int:
        return self._fields.limits.message_bytes - MESSAGE_MARGIN

    async def _shown(self, answer: StepAnswer) -> runs_pb2.Step:
        return step_to_proto(await step_store.read_payloads(self._database, answer.step))

    async def _read(self, request: NamesRun, step_name: str) -> WholeStep | None:
        self._fields.name(step_name, "step_name")
        run = await self._seek(request)
        return await step_store.read(self._database, run.run_key, identity_of(step_name)) if run is not None else None
