"""RunService: asking a run's code, for its state or for a change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import runs_pb2
from stepwell_server.api.fields import seconds
from stepwell_server.api.interceptors.deadlines import LONGEST_WAIT, wait_seconds
from stepwell_server.api.payloads import failure_to_proto, payload_from_proto, payload_to_proto
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.dispatch.run_calls import Stage

if TYPE_CHECKING:
    from stepwell_server.api.fields import Fields
    from stepwell_server.api.run_values import RunRefs
    from stepwell_server.dispatch.run_calls import Queried, RunCalls, Updated

    Context = grpc.aio.ServicerContext[Any, Any]

_QUERY_WAIT = 10.0


class RunAsks:
    """The asking part of RunService."""

    def __init__(self, run_calls: RunCalls, fields: Fields, refs: RunRefs) -> None:
        self._run_calls = run_calls
        self._fields = fields
        self._refs = refs

    async def QueryRun(self, request: runs_pb2.QueryRunRequest, context: Context) -> runs_pb2.QueryRunResponse:
        del context
        name = self._fields.name(request.query_name, "query_name")
        given = payload_from_proto(request.input, self._fields, "input")
        wait = wait_seconds(seconds(request, "wait"), default=_QUERY_WAIT)
        return queried_to_proto(await self._run_calls.query(await self._refs.read(request), name, given, wait))

    async def UpdateRun(self, request: runs_pb2.UpdateRunRequest, context: Context) -> runs_pb2.UpdateRunResponse:
        del context
        name = self._fields.name(request.update_name, "update_name")
        update_id = self._fields.text(request.update_id, "update_id")
        given = payload_from_proto(request.input, self._fields, "input")
        stage = Stage(self._fields.member(request.wait_for, runs_pb2.UpdateStage, "wait_for") or Stage.COMPLETED)
        wait = wait_seconds(seconds(request, "wait"), default=LONGEST_WAIT)
        ref = await self._refs.read(request)
        return updated_to_proto(await self._run_calls.update(ref, name, update_id, given, stage, wait))


def queried_to_proto(queried: Queried) -> runs_pb2.QueryRunResponse:
    """Renders the answer to a query."""
    return runs_pb2.QueryRunResponse(
        run_id=str(queried.run_id),
        result=payload_to_proto(queried.result),
        live=queried.publish_time is None,
        publish_time=time_to_proto(queried.publish_time),
    )


def updated_to_proto(updated: Updated) -> runs_pb2.UpdateRunResponse:
    """Renders what came of an update."""
    run_id, update_id, outcome = str(updated.run_id), updated.update_id, updated.outcome
    if updated.rejection is not None:
        rejection = failure_to_proto(updated.rejection)
        return runs_pb2.UpdateRunResponse(run_id=run_id, update_id=update_id, rejection=rejection)
    if outcome is None:
        stage = runs_pb2.UPDATE_STAGE_ACCEPTED
        return runs_pb2.UpdateRunResponse(run_id=run_id, update_id=update_id, stage=stage)
    return runs_pb2.UpdateRunResponse(
        run_id=run_id,
        update_id=update_id,
        stage=runs_pb2.UPDATE_STAGE_COMPLETED,
        result=payload_to_proto(outcome.payload) if outcome.failure is None else None,
        failure=failure_to_proto(outcome.failure),
    )
