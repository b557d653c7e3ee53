"""The part of FlowOrchestrator's store that is about runs: started, ended, derived."""

from __future__ import annotations

from stepwell.stores._connection import Store
from stepwell.stores.flow_orchestrator.records import (
    FlowRunRecord,
    RunStatus,
    json_payload,
    phase_of,
    run_record,
    status_of,
)
from stepwell.v1 import run_store_pb2 as runs
from stepwell.v1 import runs_pb2
from stepwell.v1.run_store_pb2_grpc import RunStoreStub
from stepwell.v1.types_pb2 import RunPhase


class Runs(Store):
    """See the module."""

    async def StartRunAsync(  # noqa: PLR0917 - the store's own arguments
        self,
        flowId: str,
        flowName: str,
        runId: str,
        triggerKey: str,
        triggerData: str | None = None,
        jobId: str | None = None,
        sourceRunId: str | None = None,
    ) -> FlowRunRecord:
        """Creates a run, Running. Raises `RunExists` for an id that is taken."""
        request = runs.CreateRunRequest(
            namespace=self.namespace,
            run_id=runId,
            type=flowId,
            input=json_payload(triggerData),
            initial_phase=RunPhase.RUN_PHASE_RUNNING,
            correlation_id=jobId or "",
            source_run_id=sourceRunId or "",
            origin=runs_pb2.Run.Origin(title=flowName, trigger_key=triggerKey),
        )
        created = await self.call(RunStoreStub(self.channel).CreateRun, request)
        read = runs.ReadRunRequest(namespace=self.namespace, run_id=created.run_id)
        return run_record((await self.call(RunStoreStub(self.channel).ReadRun, read)).run)

    async def CompleteRunAsync(self, runId: str, status: str) -> None:
        """Ends a run. Raises `ValueError` for a status that is no end.

        Differs: a run that has ended stays as it ended, `RunTerminal`, and one that is not there is `RunNotFound`. The
        store writes over the first and passes over the second, so that a late worker can turn a success into a failure.
        """
        request = runs.SetRunPhaseRequest(namespace=self.namespace, run_id=runId, phase=phase_of(status))
        await self.call(RunStoreStub(self.channel).SetRunPhase, request)

    async def GetRunStatusAsync(self, runId: str) -> RunStatus | None:
        """A run's status, or `None` if it is not there."""
        request = runs.ReadRunRequest(namespace=self.namespace, run_id=runId)
        answer = await self.call(RunStoreStub(self.channel).ReadRun, request)
        return status_of(answer.run.phase) if answer.found else None

    async def GetDerivedRunsAsync(self, sourceRunId: str) -> list[FlowRunRecord]:
        """The runs that are re-runs of that one, newest first."""
        request = runs.ListDerivedRunsRequest(namespace=self.namespace, run_id=sourceRunId, payloads=True)
        return [
            run_record(run) for run in await self.every(RunStoreStub(self.channel).ListDerivedRuns, request, "runs")
        ]
