"""assay's methods on namespaces, workflows, their tasks and their events."""

from __future__ import annotations

import json

from stepwell.search_attributes import spelled
from stepwell.stores._connection import Store, span, stamp
from stepwell.stores.assay.records import (
    PHASES,
    NamespaceRecord,
    NamespaceStats,
    WorkflowEvent,
    WorkflowRecord,
    WorkflowStatus,
    payload_of,
    workflow_event,
    workflow_record,
)
from stepwell.v1 import event_store_pb2 as events
from stepwell.v1 import namespaces_pb2 as namespaces
from stepwell.v1 import run_store_pb2 as runs
from stepwell.v1.event_store_pb2_grpc import EventStoreStub
from stepwell.v1.history_pb2 import EventOrigin
from stepwell.v1.namespaces_pb2_grpc import NamespaceServiceStub
from stepwell.v1.run_store_pb2_grpc import RunStoreStub
from stepwell.v1.types_pb2 import Failure

ANY = "-"


class Workflows(Store):
    """Namespaces, workflows, their tasks and their events."""

    async def create_namespace(self, name: str) -> None:
        """Creates a namespace. Raises `NamespaceExists`, `InvalidField`."""
        request = namespaces.CreateNamespaceRequest(namespace=name)
        await self.call(NamespaceServiceStub(self.channel).CreateNamespace, request)

    async def list_namespaces(self) -> list[NamespaceRecord]:
        """All namespaces by name."""
        request = namespaces.ListNamespacesRequest()
        found = await self.every(NamespaceServiceStub(self.channel).ListNamespaces, request, "namespaces")
        return [NamespaceRecord(name=each.name, created_at=each.create_time.ToMicroseconds() / 1e6) for each in found]

    async def delete_namespace(self, name: str) -> bool:
        """Deletes a namespace; `False` if there was none, or for `main`. Raises `NamespaceNotEmpty`.

        Differs: assay deletes one that has workflows, and leaves them behind.
        """
        request = namespaces.DeleteNamespaceRequest(namespace=name)
        return (await self.call(NamespaceServiceStub(self.channel).DeleteNamespace, request)).deleted

    async def get_namespace_stats(self, namespace: str) -> NamespaceStats:
        """Counts what is in a namespace. One that is not there is empty."""
        request = namespaces.GetNamespaceStatsRequest(namespace=namespace)
        stats = await self.call(NamespaceServiceStub(self.channel).GetNamespaceStats, request)
        counts = {each.phase: each.count for each in stats.runs}

        def counted(status: WorkflowStatus) -> int:
            return sum(counts.get(phase, 0) for phase in PHASES[status])

        return NamespaceStats(
            namespace=stats.namespace,
            total_workflows=stats.total_runs,
            running=counted(WorkflowStatus.RUNNING),
            pending=counted(WorkflowStatus.PENDING),
            completed=counted(WorkflowStatus.COMPLETED),
            failed=counted(WorkflowStatus.FAILED),
            schedules=stats.schedules,
            workers=stats.workers,
        )

    # --- workflows ----------------------------------------------------------------------------------------------------

    async def create_workflow(self, workflow: WorkflowRecord) -> None:
        """Creates a workflow that is PENDING or RUNNING. Raises `WorkflowIdInUse`, `RunExists`.

        Differs: ids are unique in their namespace, not over all of them.
        """
        request = runs.CreateRunRequest(
            namespace=workflow.namespace,
            workflow_id=workflow.id,
            type=workflow.workflow_type,
            task_queue=workflow.task_queue,
            input=payload_of(workflow.input),
            initial_phase=PHASES[workflow.status][0],
            parent_workflow_id=workflow.parent_id or "",
            correlation_id=workflow.run_id,
            search_attributes=spelled(json.loads(workflow.search_attributes or "{}")),
        )
        await self.call(RunStoreStub(self.channel).CreateRun, request)

    async def get_workflow(self, id: str) -> WorkflowRecord | None:
        """Reads a workflow, or `None`."""
        request = runs.ReadRunRequest(namespace=ANY, workflow_id=id)
        answer = await self.call(RunStoreStub(self.channel).ReadRun, request)
        return workflow_record(answer.run) if answer.found else None

    async def list_workflows(  # noqa: PLR0917 - the store's own arguments
        self,
        namespace: str,
        status: WorkflowStatus | None = None,
        workflow_type: str | None = None,
        search_attrs_filter: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> list[WorkflowRecord]:
        """Workflows that fit, newest first. The filter is a JSON object of search attributes.

        Differs: what is no JSON object is refused with `ValueError`; assay answers all workflows.
        """
        request = runs.ListDrivenRunsRequest(
            namespace=namespace,
            phases=PHASES[status] if status is not None else (),
            type=workflow_type or "",
            filter=_filter(search_attrs_filter),
            payloads=True,
        )
        stub = RunStoreStub(self.channel)
        found = await self.window(stub.ListDrivenRuns, request, "runs", limit=limit, offset=offset)
        return [workflow_record(run) for run in found]

    async def list_child_workflows(self, parent_id: str) -> list[WorkflowRecord]:
        """The children of a workflow, the oldest first."""
        request = runs.ListChildRunsRequest(namespace=ANY, workflow_id=parent_id, payloads=True)
        found = await self.every(RunStoreStub(self.channel).ListChildRuns, request, "runs")
        return [workflow_record(run) for run in reversed(found)]

    async def update_workflow_status(
        self, id: str, status: WorkflowStatus, result: str | None = None, error: str | None = None
    ) -> None:
        """Moves a workflow to a status. Raises `RunTerminal`, `RunPhaseConflict`.

        Differs: only along legal moves.
        """
        request = runs.SetRunPhaseRequest(
            namespace=ANY,
            workflow_id=id,
            phase=PHASES[status][0],
            result=payload_of(result),
            failure=Failure(message=error) if error is not None else None,
        )
        await self.call(RunStoreStub(self.channel).SetRunPhase, request)

    async def claim_workflow(self, id: str, worker_id: str) -> bool:
        """Claims a workflow that nobody has; it is RUNNING then.

        Differs: one that is not there is refused with `RunNotFound`, and one that has ended is not claimed.
        """
        request = runs.ClaimRunRequest(namespace=ANY, workflow_id=id, owner_id=worker_id)
        return (await self.call(RunStoreStub(self.channel).ClaimRun, request)).claimed

    # --- their tasks --------------------------------------------------------------------------------------------------

    async def mark_workflow_dispatchable(self, workflow_id: str) -> None:
        """Notes that a worker should look at a workflow; also while one does."""
        request = runs.MarkRunDispatchableRequest(namespace=ANY, workflow_id=workflow_id)
        await self.call(RunStoreStub(self.channel).MarkRunDispatchable, request)

    async def claim_workflow_task(self, task_queue: str, worker_id: str) -> WorkflowRecord | None:
        """Gives a worker the dispatchable workflow of a queue that has waited longest, or `None`."""
        request = runs.ClaimRunTaskRequest(namespace=self.namespace, task_queue=task_queue, worker_id=worker_id)
        answer = await self.call(RunStoreStub(self.channel).ClaimRunTask, request)
        return workflow_record(answer.run) if answer.claimed else None

    async def release_workflow_task(self, workflow_id: str, worker_id: str) -> None:
        """Gives a task back; that of another worker stays."""
        request = runs.ReleaseRunTaskRequest(namespace=ANY, workflow_id=workflow_id, worker_id=worker_id)
        await self.call(RunStoreStub(self.channel).ReleaseRunTask, request)

    async def release_stale_dispatch_leases(self, now: float, timeout_secs: float) -> int:
        """Takes tasks back that were claimed longer ago than the timeout, and counts them."""
        request = runs.ReleaseStaleRunTasksRequest(namespace=self.namespace, now=stamp(now), timeout=span(timeout_secs))
        count, released = 0, _MOST
        while released == _MOST:
            released = (await self.call(RunStoreStub(self.channel).ReleaseStaleRunTasks, request)).released_count
            count += released
        return count

    # --- events -------------------------------------------------------------------------------------------------------

    async def append_event(self, event: WorkflowEvent) -> int:
        """Appends an event, and gives its id. Raises `EventSeqExists`.

        Differs: a sequence number is used once in a workflow.
        """
        request = events.AppendEventRequest(
            namespace=ANY,
            workflow_id=event.workflow_id,
            type=event.event_type,
            payload=payload_of(event.payload),
            caller_seq=event.seq,
        )
        return (await self.call(EventStoreStub(self.channel).AppendEvent, request)).event_number

    async def list_events(self, workflow_id: str) -> list[WorkflowEvent]:
        """The events that were appended to a workflow, in the order of their appending."""
        request = events.ReadEventsRequest(
            namespace=ANY, workflow_id=workflow_id, origin=EventOrigin.EVENT_ORIGIN_CALLER
        )
        found = await self.every(EventStoreStub(self.channel).ReadEvents, request, "events")
        return [workflow_event(workflow_id, event) for event in found]

    async def get_event_count(self, workflow_id: str) -> int:
        """How many events were appended to a workflow. One that is not there has none."""
        request = events.CountEventsRequest(
            namespace=ANY, workflow_id=workflow_id, origin=EventOrigin.EVENT_ORIGIN_CALLER
        )
        return (await self.call(EventStoreStub(self.channel).CountEvents, request)).count


_MOST = 256


def _filter(attributes: str | None) -> str:
    """The filter of lists that a JSON object of search attributes stands for."""
    wanted = dict(json.loads(attributes or "{}"))
    return " AND ".join(f"attribute.{name} = {json.dumps(value)}" for name, value in wanted.items())
