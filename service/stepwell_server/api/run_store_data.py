"""RunStore: the data of driven runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import run_store_pb2, types_pb2
from stepwell_server.api.page import read_page
from stepwell_server.api.payloads import failure_from_proto, payload_from_proto
from stepwell_server.api.run_data import changes_from_proto, data_to_proto, expected_version
from stepwell_server.api.run_values import MESSAGE_MARGIN
from stepwell_server.api.stores import StoreCalls
from stepwell_server.engine.driven_data import DataAnswer, SetRunData, UpdateDrivenRun
from stepwell_server.errors import InvalidField
from stepwell_server.model.runs import Phase, unpack_details
from stepwell_server.store import run_data, runs

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]


class RunDataCalls(StoreCalls):
    """The part of RunStore that is about the data of runs."""

    async def UpdateDrivenRun(
        self, request: run_store_pb2.UpdateDrivenRunRequest, context: Context
    ) -> run_store_pb2.UpdateDrivenRunResponse:
        fields = self._fields
        phase = fields.member(request.phase, types_pb2.RunPhase, "phase")
        result = payload_from_proto(request.result, fields, "result")
        has_failed = request.HasField("failure")
        failure = failure_from_proto(request.failure, fields, "failure") if has_failed else None
        if request.HasField("result") and phase != Phase.COMPLETED:
            raise InvalidField(field="result", problem="is for phase COMPLETED: leave it out")
        if failure is not None and phase <= Phase.COMPLETED:
            raise InvalidField(field="failure", problem="is for the phases of an end that is no success: leave it out")
        reason = fields.text(request.pause_reason, "pause_reason") if request.HasField("pause_reason") else None
        changes, expected = changes_from_proto(request.changes, fields), expected_version(request)
        ref = await self._refs.read(request)
        command = UpdateDrivenRun(ref, phase, result, failure, reason, changes, expected, request.token)
        answer = await self._do(DataAnswer, command, request)
        return run_store_pb2.UpdateDrivenRunResponse(
            run_id=str(answer.run_id),
            phase=types_pb2.RunPhase.ValueType(answer.phase),
            data_version=answer.version,
        )

    async def SetRunData(
        self, request: run_store_pb2.SetRunDataRequest, context: Context
    ) -> run_store_pb2.SetRunDataResponse:
        changes, expected = changes_from_proto(request.changes, self._fields, at_least=1), expected_version(request)
        command = SetRunData(await self._refs.read(request), changes, expected, request.token)
        answer = await self._do(DataAnswer, command, request)
        return run_store_pb2.SetRunDataResponse(run_id=str(answer.run_id), data_version=answer.version)

    async def GetRunData(
        self, request: run_store_pb2.GetRunDataRequest, context: Context
    ) -> run_store_pb2.GetRunDataResponse:
        names = self._fields.names(request.names, "names") or (run_data.EVERY,)
        page = read_page(request, str, self._fields.limits)
        run = await runs.find(self._database, await self._refs.read(request))
        most_bytes = self._fields.limits.message_bytes - MESSAGE_MARGIN
        found = await run_data.page(self._database, run.run_key, names, page.after or "", page.size, most_bytes)
        return run_store_pb2.GetRunDataResponse(
            run_id=str(run.run_id),
            data_version=unpack_details(run.details).data_version,
            data=data_to_proto(found.data),
            next_page_token=page.token(list(found.data)[-1]) if found.has_more and found.data else "",
        )
