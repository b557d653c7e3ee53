"""DispatchStore: the ledger of dispatches."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import dispatch_store_pb2, dispatch_store_pb2_grpc
from stepwell_server.api.fields import seconds, uuid
from stepwell_server.api.page import read_page
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.api.stores import StoreCalls
from stepwell_server.errors import InvalidField
from stepwell_server.store import dispatches
from stepwell_server.store.dispatches import StepOfRun

if TYPE_CHECKING:
    from stepwell_server.model.dispatches import Dispatch

    Context = grpc.aio.ServicerContext[Any, Any]


class DispatchStoreCalls(StoreCalls, dispatch_store_pb2_grpc.DispatchStoreServicer):
    """Records dispatches, releases them, and gives out those that are lost."""

    async def RecordDispatch(
        self, request: dispatch_store_pb2.RecordDispatchRequest, context: Context
    ) -> dispatch_store_pb2.RecordDispatchResponse:
        step, namespace = await self._step(request)
        asked = asked_of(request, step.namespace_id, bool, self._fields)
        inserted = await dispatches.record(self._database, step, namespace, self._clock.now(), asked)
        return dispatch_store_pb2.RecordDispatchResponse(inserted=inserted)

    async def AnnotateDispatch(
        self, request: dispatch_store_pb2.AnnotateDispatchRequest, context: Context
    ) -> dispatch_store_pb2.AnnotateDispatchResponse:
        step, namespace = await self._step(request)
        job_id = self._fields.name(request.job_id, "job_id")
        asked = asked_of(request, step.namespace_id, bool, self._fields)
        annotated = await dispatches.annotate(self._database, step, namespace, job_id, self._clock.now(), asked)
        return dispatch_store_pb2.AnnotateDispatchResponse(annotated=annotated)

    async def ReleaseDispatch(
        self, request: dispatch_store_pb2.ReleaseDispatchRequest, context: Context
    ) -> dispatch_store_pb2.ReleaseDispatchResponse:
        step, namespace = await self._step(request)
        asked = asked_of(request, step.namespace_id, bool, self._fields)
        released = await dispatches.release(self._database, step, namespace, self._clock.now(), asked)
        return dispatch_store_pb2.ReleaseDispatchResponse(released=released)

    async def ListDispatchedSteps(
        self, request: dispatch_store_pb2.ListDispatchedStepsRequest, context: Context
    ) -> dispatch_store_pb2.ListDispatchedStepsResponse:
        page, run_id = read_page(request, str, self._fields.limits), uuid(request.run_id, "run_id")
        namespace_id = (await self._space(request)).namespace_id or 0
        found = await dispatches.page(self._database, namespace_id, run_id, page.after or "", page.fetch)
        shown = found[: page.size]
        token = page.token(shown[-1].step_name) if len(found) > page.size else ""
        listed = [dispatch_to_proto(each) for each in shown]
        return dispatch_store_pb2.ListDispatchedStepsResponse(dispatches=listed, next_page_token=token)

    async def TakeUnclaimedDispatches(
        self, request: dispatch_store_pb2.TakeUnclaimedDispatchesRequest, context: Context
    ) -> dispatch_store_pb2.TakeUnclaimedDispatchesResponse:
        timeout, limit, now = seconds(request, "timeout"), self._limit(request.limit), self._now(request)
        if timeout is None:
            raise InvalidField(field="timeout", problem="is required: say how long a dispatch may stay unclaimed")
        namespace_id, before = (await self._space(request)).namespace_id or 0, now - timedelta(seconds=timeout)
        taken = await dispatches.take_unclaimed(self._database, namespace_id, before, now, limit)
        return dispatch_store_pb2.TakeUnclaimedDispatchesResponse(dispatches=map(dispatch_to_proto, taken))

    async def _step(self, request: Any) -> tuple[StepOfRun, str]:  # noqa: ANN401 - any request about a dispatch
        run_id, step_name = uuid(request.run_id, "run_id"), self._fields.name(request.step_name, "step_name")
        space = await self._space(request)
        return StepOfRun(space.namespace_id or 0, run_id, step_name), space.namespace


def dispatch_to_proto(row: Dispatch) -> dispatch_store_pb2.Dispatch:
    """Renders a dispatch."""
    return dispatch_store_pb2.Dispatch(
        run_id=str(row.run_id),
        step_name=row.step_name,
        dispatch_time=time_to_proto(row.dispatch_time),
        job_id=row.job_id,
        claim_time=time_to_proto(row.claim_time),
    )
