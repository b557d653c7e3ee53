"""The part of FlowOrchestrator's store that is about steps: claimed, attempted, skipped, retried."""

from __future__ import annotations

from collections.abc import Collection
from uuid import uuid4

from stepwell.stores._connection import Store
from stepwell.stores.flow_orchestrator.records import (
    PREREQUISITES_UNMET,
    FlowRunRecord,
    StepStatus,
    json_payload,
    run_record,
    state_of,
    step_record,
    step_status,
)
from stepwell.v1 import run_store_pb2 as runs
from stepwell.v1 import runs_pb2
from stepwell.v1 import step_store_pb2 as steps
from stepwell.v1.run_store_pb2_grpc import RunStoreStub
from stepwell.v1.step_store_pb2_grpc import StepStoreStub
from stepwell.v1.types_pb2 import Failure


class Steps(Store):
    """See the module."""

    async def TryClaimStepAsync(self, runId: str, stepKey: str) -> bool:
        """Claims a step; `False` if it is claimed, or has ended. Raises `RunNotFound`.

        Differs: a step that has ended is not claimed, also once its claim was released. A retry makes it claimable.
        """
        request = steps.ClaimStepRequest(
            namespace=self.namespace, run_id=runId, step_name=stepKey, owner_id=f"claim-{uuid4()}"
        )
        return (await self.call(StepStoreStub(self.channel).ClaimStep, request)).claimed

    async def ReleaseStepClaimAsync(self, runId: str, stepKey: str) -> None:
        """Releases a claim, if there is one, whoever has it. Raises `RunNotFound`."""
        request = steps.ReleaseStepClaimRequest(namespace=self.namespace, run_id=runId, step_name=stepKey)
        await self.call(StepStoreStub(self.channel).ReleaseStepClaim, request)

    async def GetClaimedStepKeysAsync(self, runId: str) -> set[str]:
        """The keys of the steps that are claimed and have not ended, as the store's documents have it."""
        request = steps.ListClaimedStepsRequest(namespace=self.namespace, run_id=runId)
        listed = await self.every(StepStoreStub(self.channel).ListClaimedSteps, request, "claims")
        return {claim.step_name for claim in listed}

    async def GetStepStatusesAsync(self, runId: str) -> dict[str, StepStatus]:
        """The statuses of the steps that were begun."""
        request = steps.ListStepStatesRequest(namespace=self.namespace, run_id=runId)
        listed = await self.every(StepStoreStub(self.channel).ListStepStates, request, "entries")
        found = {entry.step_name: step_status(entry.state) for entry in listed}
        return {key: status for key, status in found.items() if status is not None}

    async def RecordStepStartAsync(
        self, runId: str, stepKey: str, stepType: str, inputJson: str | None = None, jobId: str | None = None
    ) -> None:
        """Records that an attempt begins. Raises `RunNotFound`, `RunTerminal`.

        Differs: a step that succeeded or was skipped is not begun again, `StepStateConflict`; the store writes over it.
        """
        request = steps.RecordStepStartRequest(
            namespace=self.namespace,
            run_id=runId,
            step_name=stepKey,
            type=stepType,
            input=json_payload(inputJson),
            job_id=jobId or "",
        )
        await self.call(StepStoreStub(self.channel).RecordStepStart, request)

    async def RecordStepCompleteAsync(
        self, runId: str, stepKey: str, status: str, outputJson: str | None = None, errorMessage: str | None = None
    ) -> None:
        """Records what the attempt came to. Raises `RunNotFound`, `StepNotFound`, `ValueError` for an unknown status.

        Differs: what has ended stays, `StepStateConflict`, and so does a run that has, `RunTerminal`. With the store
        the last writer wins.
        """
        request = steps.RecordStepCompleteRequest(
            namespace=self.namespace,
            run_id=runId,
            step_name=stepKey,
            state=state_of(status),
            result=json_payload(outputJson),
            failure=None if errorMessage is None else Failure(message=errorMessage),
        )
        await self.call(StepStoreStub(self.channel).RecordStepComplete, request)

    async def RecordSkippedStepAsync(
        self,
        runId: str,
        stepKey: str,
        stepType: str,
        reason: str | None = None,
        evaluationTraceJson: str | None = None,
    ) -> None:
        """Records that a step is not done, as an attempt. The trace is kept. Raises `RunNotFound`, `RunTerminal`."""
        causes = runs_pb2.Step.Skip
        request = steps.RecordSkippedStepRequest(
            namespace=self.namespace,
            run_id=runId,
            step_name=stepKey,
            type=stepType,
            reason=reason or "",
            cause=causes.CAUSE_PREREQUISITES if reason == PREREQUISITES_UNMET else causes.CAUSE_UNSPECIFIED,
            evaluation_trace=json_payload(evaluationTraceJson),
        )
        await self.call(StepStoreStub(self.channel).RecordSkippedStep, request)

    async def RetryStepAsync(self, runId: str, stepKey: str, dependents: Collection[str] = ()) -> None:
        """Has a step done again, and its run go on. Raises `StepStateConflict` for one that succeeded or was skipped.

        `dependents` are the keys that come after it, for what the engine asks `ResetCascadeSkippedDependentsAsync`.
        Those of them that were skipped for `PREREQUISITES_UNMET` have no status any more, in the same transaction.
        """
        request = steps.RetryStepRequest(
            namespace=self.namespace, run_id=runId, step_name=stepKey, dependents=list(dependents)
        )
        await self.call(StepStoreStub(self.channel).RetryStep, request)

    async def GetRunDetailAsync(self, runId: str) -> FlowRunRecord | None:
        """A run with its steps, by their latest start, and all their attempts; or `None` if it is not there."""
        request = runs.GetRunDetailRequest(namespace=self.namespace, run_id=runId, page_size=1)
        answer = await self.call(RunStoreStub(self.channel).GetRunDetail, request)
        if not answer.found:
            return None
        details = await self.every(RunStoreStub(self.channel).GetRunDetail, request, "steps")
        found = [record for detail in details if (record := step_record(runId, detail)) is not None]
        return run_record(answer.run, tuple(sorted(found, key=lambda step: step.StartedAt)))
