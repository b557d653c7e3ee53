"""The part of RunStore that shows a run whole: with its steps and their attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import run_store_pb2, run_store_pb2_grpc, runs_pb2, types_pb2
from stepwell_server.api.page import InRun, read_page
from stepwell_server.api.payloads import failure_to_proto, payload_to_proto
from stepwell_server.api.run_values import MESSAGE_MARGIN, step_to_proto, time_to_proto, whole_run_to_proto
from stepwell_server.api.stores import StoreCalls
from stepwell_server.store import run_details

if TYPE_CHECKING:
    from stepwell_server.model.attempts import Attempt
    from stepwell_server.model.payloads import Payload

    Context = grpc.aio.ServicerContext[Any, Any]

_Detail = run_store_pb2.GetRunDetailResponse


class RunDetailCalls(StoreCalls, run_store_pb2_grpc.RunStoreServicer):
    """Reads runs whole."""

    async def GetRunDetail(self, request: run_store_pb2.GetRunDetailRequest, context: Context) -> _Detail:
        page, ref = read_page(request, InRun, self._fields.limits), await self._refs.read(request)
        most_bytes = self._fields.limits.message_bytes - MESSAGE_MARGIN
        seen = await run_details.read(self._database, ref, page.after or 0, page.size, most_bytes)
        if seen is None:
            return _Detail(found=False)
        run = whole_run_to_proto(seen.run, await self._namespaces.name_of(seen.run.run.namespace_id))
        await self._show_origins([seen.run.run], [run])
        shown = [
            _Detail.StepDetail(step=step_to_proto(step), attempts=map(attempt_to_proto, attempts))
            for step, attempts in seen.steps
        ]
        token = page.token(seen.steps[-1][0].step.ordinal) if seen.has_more else ""
        return _Detail(found=True, run=run, steps=shown, next_page_token=token)


def attempt_to_proto(attempt: Attempt) -> run_store_pb2.GetRunDetailResponse.Attempt:
    """Renders an attempt."""
    skip = None
    if attempt.skip is not None:
        reason, cause = attempt.skip
        trace = _said(attempt.output)
        skip = runs_pb2.Step.Skip(
            reason=reason, cause=runs_pb2.Step.Skip.Cause.ValueType(cause), evaluation_trace=trace
        )
    return run_store_pb2.GetRunDetailResponse.Attempt(
        attempt=attempt.number,
        type=attempt.type,
        state=types_pb2.StepState.ValueType(attempt.state),
        input=_said(attempt.input),
        output=_said(attempt.output) if skip is None else None,
        failure=failure_to_proto(attempt.failure),
        skip=skip,
        job_id=attempt.job_id,
        start_time=time_to_proto(attempt.start_time),
        end_time=time_to_proto(attempt.end_time),
    )


def _said(payload: Payload | None) -> types_pb2.Payload | None:
    return payload_to_proto(payload) if payload is not None and payload.kind else None
