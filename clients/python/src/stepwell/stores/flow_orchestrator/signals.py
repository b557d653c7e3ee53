"""FlowOrchestrator's `IFlowSignalStore`: steps that wait for signals."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

from stepwell.reasons import RunNotFound
from stepwell.stores._connection import Store, stamp, time_of
from stepwell.stores.flow_orchestrator.records import json_of, json_payload
from stepwell.v1 import signal_store_pb2 as signals
from stepwell.v1.signal_store_pb2_grpc import SignalStoreStub


class SignalDeliveryStatus(StrEnum):
    """What became of a signal."""

    Delivered = "Delivered"
    NotFound = "NotFound"
    AlreadyDelivered = "AlreadyDelivered"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalDeliveryResult:
    """What became of a signal, and which step it is about."""

    Status: SignalDeliveryStatus
    StepKey: str | None
    DeliveredAt: dt.datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSignalWaiter:
    """A step that waits for a signal, or has got one."""

    RunId: str
    StepKey: str
    SignalName: str
    CreatedAt: dt.datetime
    ExpiresAt: dt.datetime | None
    DeliveredAt: dt.datetime | None
    PayloadJson: str | None


_STATUSES = {
    signals.DeliverSignalResponse.OUTCOME_DELIVERED: SignalDeliveryStatus.Delivered,
    signals.DeliverSignalResponse.OUTCOME_ALREADY_DELIVERED: SignalDeliveryStatus.AlreadyDelivered,
}


class FlowSignalStore(Store):
    """Answers like `FlowOrchestrator.Core.Storage.IFlowSignalStore`."""

    async def RegisterAsync(
        self, runId: str, stepKey: str, signalName: str, expiresAt: dt.datetime | None = None
    ) -> FlowSignalWaiter:
        """Has a step wait, or renews for what and until when. Raises `RunNotFound`, `RunTerminal`."""
        request = signals.RegisterSignalWaiterRequest(
            namespace=self.namespace,
            run_id=runId,
            step_name=stepKey,
            signal_name=signalName,
            expire_time=stamp(expiresAt),
        )
        answer = await self.call(SignalStoreStub(self.channel).RegisterSignalWaiter, request)
        return _waiter(runId, answer.waiter)

    async def DeliverAsync(self, runId: str, signalName: str, payloadJson: str | None = None) -> SignalDeliveryResult:
        """Delivers a signal to the step that has waited longest for it. Raises `SignalRefused` for an ended run.

        Differs: a signal for which nobody waits yet is `NotFound`, and kept: the first step that waits for it gets it
        at once. With the store it is lost. A waiter whose time is over is `NotFound` with its key; it gets nothing.
        """
        request = signals.DeliverSignalRequest(
            namespace=self.namespace, run_id=runId, signal_name=signalName, payload=json_payload(payloadJson)
        )
        try:
            answer = await self.call(SignalStoreStub(self.channel).DeliverSignal, request)
        except RunNotFound:
            return SignalDeliveryResult(Status=SignalDeliveryStatus.NotFound, StepKey=None, DeliveredAt=None)
        return SignalDeliveryResult(
            Status=_STATUSES.get(answer.outcome, SignalDeliveryStatus.NotFound),
            StepKey=answer.step_name or None,
            DeliveredAt=time_of(answer, "deliver_time"),
        )

    async def GetWaiterAsync(self, runId: str, stepKey: str) -> FlowSignalWaiter | None:
        """For what a step waits, or what it has got; `None` if neither."""
        request = signals.GetSignalWaiterRequest(namespace=self.namespace, run_id=runId, step_name=stepKey)
        answer = await self.call(SignalStoreStub(self.channel).GetSignalWaiter, request)
        return _waiter(runId, answer.waiter) if answer.found else None

    async def RemoveWaiterAsync(self, runId: str, stepKey: str) -> None:
        """Forgets a waiter, if there is one. Raises `RunNotFound`."""
        request = signals.RemoveSignalWaiterRequest(namespace=self.namespace, run_id=runId, step_name=stepKey)
        await self.call(SignalStoreStub(self.channel).RemoveSignalWaiter, request)


def _waiter(run_id: str, waiter: signals.SignalWaiter) -> FlowSignalWaiter:
    return FlowSignalWaiter(
        RunId=run_id,
        StepKey=waiter.step_name,
        SignalName=waiter.signal_name,
        CreatedAt=waiter.create_time.ToDatetime(dt.UTC),
        ExpiresAt=time_of(waiter, "expire_time"),
        DeliveredAt=time_of(waiter, "deliver_time"),
        PayloadJson=json_of(waiter.payload),
    )
