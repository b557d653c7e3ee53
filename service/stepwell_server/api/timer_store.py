"""TimerStore: timers of driven runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import grpc.aio

from stepwell.v1 import timer_store_pb2, timer_store_pb2_grpc, types_pb2
from stepwell_server.api.fields import integer, time
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.api.stores import StoreCalls, within
from stepwell_server.engine.driven_timers import CancelTimers, CreateTimer, FireTimer, TimerAnswer, timer_identity
from stepwell_server.errors import InvalidField
from stepwell_server.ids import pack, unpack
from stepwell_server.model.steps import unpack_step_details
from stepwell_server.store import step_store, timer_store

if TYPE_CHECKING:
    from uuid import UUID

    Context = grpc.aio.ServicerContext[Any, Any]

_LARGEST_SEQ = 2**63 - 1


class _Timer(Protocol):
    """A step that is a timer, read or decided."""

    @property
    def run_key(self) -> int: ...
    @property
    def ordinal(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def state(self) -> int: ...
    @property
    def details(self) -> bytes | None: ...


class TimerStoreCalls(StoreCalls, timer_store_pb2_grpc.TimerStoreServicer):
    """Creates, reads, fires and cancels timers."""

    async def CreateTimer(
        self, request: timer_store_pb2.CreateTimerRequest, context: Context
    ) -> timer_store_pb2.CreateTimerResponse:
        seq, fire_time = integer(request.seq, "seq", at_most=_LARGEST_SEQ), time(request, "fire_time")
        if fire_time is None:
            raise InvalidField(field="fire_time", problem="is required: say when the timer fires")
        command = CreateTimer(await self._refs.read(request), seq, fire_time, request.token)
        answer = await self._do(TimerAnswer, command, request)
        return timer_store_pb2.CreateTimerResponse(created=answer.done, timer=_answered(answer))

    async def GetTimer(
        self, request: timer_store_pb2.GetTimerRequest, context: Context
    ) -> timer_store_pb2.GetTimerResponse:
        seq = integer(request.seq, "seq", at_most=_LARGEST_SEQ)
        run = await self._seek(request)
        found = await step_store.read(self._database, run.run_key, timer_identity(seq)) if run is not None else None
        if run is None or found is None:
            return timer_store_pb2.GetTimerResponse(found=False)
        timer = timer_to_proto(found.step, run.run_id, run.workflow_id)
        return timer_store_pb2.GetTimerResponse(found=True, timer=timer)

    async def FireDueTimers(
        self, request: timer_store_pb2.FireDueTimersRequest, context: Context
    ) -> timer_store_pb2.FireDueTimersResponse:
        space, now, limit = await self._space(request), self._now(request), self._limit(request.limit)
        namespace_id = space.namespace_id or 0

        async def choose(tried: Collection[int], most: int) -> Sequence[int]:
            return await timer_store.due(self._database, namespace_id, now, tried, most)

        def order(number: int) -> FireTimer:
            run_key, ordinal = unpack(number)
            return FireTimer(within(space, run_key), ordinal, now)

        taken = await self._take(TimerAnswer, limit, choose, order)
        timers = [_answered(answer) for _, answer in taken]
        timers.sort(key=lambda timer: (timer.fire_time.ToNanoseconds(), timer.timer_number))
        return timer_store_pb2.FireDueTimersResponse(timers=timers)

    async def CancelPendingTimers(
        self, request: timer_store_pb2.CancelPendingTimersRequest, context: Context
    ) -> timer_store_pb2.CancelPendingTimersResponse:
        count = await self._do(int, CancelTimers(await self._refs.read(request), request.token), request)
        return timer_store_pb2.CancelPendingTimersResponse(cancelled_count=count)


def _answered(answer: TimerAnswer) -> timer_store_pb2.Timer:
    return timer_to_proto(answer.step, answer.run_id, answer.workflow_id)


def timer_to_proto(step: _Timer, run_id: UUID, workflow_id: str) -> timer_store_pb2.Timer:
    """Renders a timer."""
    return timer_store_pb2.Timer(
        timer_number=pack(step.run_key, step.ordinal),
        run_id=str(run_id),
        workflow_id=workflow_id,
        seq=step.seq,
        fire_time=time_to_proto(unpack_step_details(step.details).ready_time),
        state=types_pb2.StepState.ValueType(step.state),
    )
