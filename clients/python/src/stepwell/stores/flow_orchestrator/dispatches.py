"""The part of FlowOrchestrator's store that is about dispatches: which steps were handed to the runtime."""

from __future__ import annotations

from stepwell.stores._connection import Store
from stepwell.v1 import dispatch_store_pb2 as dispatches
from stepwell.v1.dispatch_store_pb2_grpc import DispatchStoreStub


class Dispatches(Store):
    """See the module. There need be no such run."""

    async def TryRecordDispatchAsync(self, runId: str, stepKey: str) -> bool:
        """Records a dispatch; `False` if it is recorded."""
        request = dispatches.RecordDispatchRequest(namespace=self.namespace, run_id=runId, step_name=stepKey)
        return (await self.call(DispatchStoreStub(self.channel).RecordDispatch, request)).inserted

    async def AnnotateDispatchAsync(self, runId: str, stepKey: str, jobId: str) -> None:
        """Notes the runtime's id of a dispatch. One that is not recorded stays so."""
        request = dispatches.AnnotateDispatchRequest(
            namespace=self.namespace, run_id=runId, step_name=stepKey, job_id=jobId
        )
        await self.call(DispatchStoreStub(self.channel).AnnotateDispatch, request)

    async def ReleaseDispatchAsync(self, runId: str, stepKey: str) -> None:
        """Takes a dispatch out of the ledger, if it is there."""
        request = dispatches.ReleaseDispatchRequest(namespace=self.namespace, run_id=runId, step_name=stepKey)
        await self.call(DispatchStoreStub(self.channel).ReleaseDispatch, request)

    async def GetDispatchedStepKeysAsync(self, runId: str) -> set[str]:
        """The keys of the steps that are dispatched."""
        request = dispatches.ListDispatchedStepsRequest(namespace=self.namespace, run_id=runId)
        listed = await self.every(DispatchStoreStub(self.channel).ListDispatchedSteps, request, "dispatches")
        return {each.step_name for each in listed}
