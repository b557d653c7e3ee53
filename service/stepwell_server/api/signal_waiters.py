"""The part of SignalStore that is about steps which wait for signals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import signal_store_pb2, signal_store_pb2_grpc
from stepwell_server.api.fields import time
from stepwell_server.api.payloads import payload_from_proto, payload_to_proto
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.api.stores import StoreCalls
from stepwell_server.engine import signal_waiters
from stepwell_server.engine.driven_steps import StepAnswer
from stepwell_server.engine.signal_waiters import Delivery, waiter_identity
from stepwell_server.model.steps import StepState, unpack_step_details
from stepwell_server.store import step_store

if TYPE_CHECKING:
    from stepwell_server.store.steps import WholeStep

    Context = grpc.aio.ServicerContext[Any, Any]


class SignalWaiters(StoreCalls, signal_store_pb2_grpc.SignalStoreServicer):
    """Registers who waits, and delivers to them."""

    async def RegisterSignalWaiter(
        self, request: signal_store_pb2.RegisterSignalWaiterRequest, context: Context
    ) -> signal_store_pb2.RegisterSignalWaiterResponse:
        step_name = self._fields.name(request.step_name, "step_name")
        name, until = self._fields.name(request.signal_name, "signal_name"), time(request, "expire_time")
        ref = await self._refs.read(request)
        command = signal_waiters.RegisterWaiter(ref, step_name, name, until, request.token)
        answer = await self._do(StepAnswer, command, request)
        whole = await step_store.read_payloads(self._database, answer.step)
        return signal_store_pb2.RegisterSignalWaiterResponse(waiter=waiter_to_proto(whole))

    async def DeliverSignal(
        self, request: signal_store_pb2.DeliverSignalRequest, context: Context
    ) -> signal_store_pb2.DeliverSignalResponse:
        name, now = self._fields.name(request.signal_name, "signal_name"), time(request, "now")
        payload = payload_from_proto(request.payload, self._fields, "payload")
        ref = await self._refs.read(request)
        command = signal_waiters.DeliverSignal(ref, name, payload, request.only_waiting, now)
        answer = await self._do(Delivery, command, request)
        return signal_store_pb2.DeliverSignalResponse(
            outcome=signal_store_pb2.DeliverSignalResponse.Outcome.ValueType(answer.outcome),
            step_name=answer.step_name,
            deliver_time=time_to_proto(answer.time),
        )

    async def GetSignalWaiter(
        self, request: signal_store_pb2.GetSignalWaiterRequest, context: Context
    ) -> signal_store_pb2.GetSignalWaiterResponse:
        step_name, run = self._fields.name(request.step_name, "step_name"), await self._seek(request)
        found = None
        if run is not None:
            found = await step_store.read(self._database, run.run_key, waiter_identity(step_name))
        if found is None:
            return signal_store_pb2.GetSignalWaiterResponse(found=False)
        return signal_store_pb2.GetSignalWaiterResponse(found=True, waiter=waiter_to_proto(found))

    async def RemoveSignalWaiter(
        self, request: signal_store_pb2.RemoveSignalWaiterRequest, context: Context
    ) -> signal_store_pb2.RemoveSignalWaiterResponse:
        step_name, ref = self._fields.name(request.step_name, "step_name"), await self._refs.read(request)
        command = signal_waiters.RemoveWaiter(ref, step_name, request.token)
        return signal_store_pb2.RemoveSignalWaiterResponse(removed=await self._do(bool, command, request))


def waiter_to_proto(whole: WholeStep) -> signal_store_pb2.SignalWaiter:
    """Renders a waiter."""
    step = whole.step
    is_delivered = step.state == StepState.COMPLETED
    return signal_store_pb2.SignalWaiter(
        step_name=step.key[1:],
        signal_name=step.wait_name or "",
        create_time=time_to_proto(step.create_time),
        expire_time=time_to_proto(unpack_step_details(step.details).expire_time),
        deliver_time=time_to_proto(step.end_time) if is_delivered else None,
        payload=payload_to_proto(whole.result) if is_delivered else None,
    )
