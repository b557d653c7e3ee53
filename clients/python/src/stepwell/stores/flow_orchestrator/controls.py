"""The part of FlowOrchestrator's store that controls runs: idempotency keys, deadlines, requests to stop."""

from __future__ import annotations

import datetime as dt

from stepwell.reasons import RunNotFound
from stepwell.stores._connection import Store, stamp
from stepwell.stores.flow_orchestrator.records import FlowRunControlRecord, control_record
from stepwell.v1 import run_control_store_pb2 as controls
from stepwell.v1.run_control_store_pb2_grpc import RunControlStoreStub


class Controls(Store):
    """See the module."""

    async def TryRegisterIdempotencyKeyAsync(
        self, flowId: str, triggerKey: str, idempotencyKey: str, runId: str
    ) -> bool:
        """Registers a key for a run; `False` if it is registered. Blanks around it and case do not count."""
        request = controls.RegisterIdempotencyKeyRequest(
            namespace=self.namespace,
            type=flowId,
            trigger_key=triggerKey,
            idempotency_key=idempotencyKey,
            run_id=runId,
        )
        return (await self.call(RunControlStoreStub(self.channel).RegisterIdempotencyKey, request)).registered

    async def FindRunIdByIdempotencyKeyAsync(self, flowId: str, triggerKey: str, idempotencyKey: str) -> str | None:
        """The run for which a key is registered, or `None`."""
        request = controls.GetRunByIdempotencyKeyRequest(
            namespace=self.namespace, type=flowId, trigger_key=triggerKey, idempotency_key=idempotencyKey
        )
        answer = await self.call(RunControlStoreStub(self.channel).GetRunByIdempotencyKey, request)
        return answer.run_id if answer.found else None

    async def ConfigureRunAsync(
        self,
        runId: str,
        flowId: str,  # noqa: ARG002 - the store's own argument
        triggerKey: str,
        idempotencyKey: str | None = None,
        timeoutAtUtc: dt.datetime | None = None,
    ) -> None:
        """Notes what set a run off, and its deadline. Requests to stop stay. Raises `RunNotFound`, `RunTerminal`.

        Differs: the run is started first, as the engine does; its control is a part of it. `flowId` is what it was
        started with.
        """
        request = controls.ConfigureRunRequest(
            namespace=self.namespace,
            run_id=runId,
            trigger_key=triggerKey,
            idempotency_key=idempotencyKey or "",
            deadline=stamp(timeoutAtUtc),
        )
        await self.call(RunControlStoreStub(self.channel).ConfigureRun, request)

    async def GetRunControlAsync(self, runId: str) -> FlowRunControlRecord | None:
        """What controls a run, or `None` if it is not there."""
        request = controls.GetRunControlRequest(namespace=self.namespace, run_id=runId)
        answer = await self.call(RunControlStoreStub(self.channel).GetRunControl, request)
        return control_record(answer.control) if answer.found else None

    async def RequestCancelAsync(self, runId: str, reason: str | None = None) -> bool:
        """Asks for a run to be cancelled; `True` for the first request, whose reason stays."""
        request = controls.RequestRunCancelRequest(namespace=self.namespace, run_id=runId, reason=reason or "")
        try:
            return (await self.call(RunControlStoreStub(self.channel).RequestRunCancel, request)).accepted
        except RunNotFound:
            return False

    async def MarkTimedOutAsync(self, runId: str, reason: str | None = None) -> bool:
        """Notes that a run's time is over; `True` for the first note.

        Differs: an earlier request to cancel keeps its reason. The Postgres store writes over it, and always answers
        `True`; its tests have it as here.
        """
        request = controls.MarkRunTimedOutRequest(namespace=self.namespace, run_id=runId, reason=reason or "")
        try:
            return (await self.call(RunControlStoreStub(self.channel).MarkRunTimedOut, request)).marked
        except RunNotFound:
            return False
