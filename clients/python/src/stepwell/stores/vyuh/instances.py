"""Vyuh's `WorkflowInstanceRepository`: driven runs that follow a definition.

An instance's id is its run's `workflow_id`, which no second run ever has. `instance_records` says how its status is
the run's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stepwell.reasons import RunNotFound
from stepwell.stores._connection import Store, payload_of, value_of
from stepwell.stores.vyuh.instance_records import (
    ASKED,
    FOUND,
    OPEN,
    WorkflowInstance,
    WorkflowStatus,
    WorkflowToken,
    data_of,
    failure_of,
    instance_of,
    text_of,
    tokens_of,
)
from stepwell.v1 import retention_pb2
from stepwell.v1 import run_store_pb2 as pb
from stepwell.v1.definitions_pb2 import DefinitionRef
from stepwell.v1.retention_pb2_grpc import RetentionServiceStub
from stepwell.v1.run_store_pb2_grpc import RunStoreStub
from stepwell.v1.statistics_pb2 import CountRunsRequest
from stepwell.v1.statistics_pb2_grpc import StatisticsServiceStub
from stepwell.v1.types_pb2 import RunPhase

if TYPE_CHECKING:
    from stepwell.v1.run_store_pb2_grpc import RunStoreAsyncStub
    from stepwell.v1.runs_pb2 import Run


@dataclass(frozen=True, kw_only=True)
class WorkflowInstanceQuery:
    """Which instances to find; what is empty does not matter. Vyuh's own fields are not documented: these are ours."""

    statuses: Sequence[WorkflowStatus] = ()
    workflowId: str = ""
    correlationId: str = ""
    createdAfter: dt.datetime | None = None
    createdBefore: dt.datetime | None = None
    limit: int = 100
    offset: int = 0


_EVERY = ("*",)


class WorkflowInstanceRepository(Store):
    """Instances. `storage.instances`. Those that have ended change no more: `RunTerminal`."""

    @cached_property
    def _stub(self) -> RunStoreAsyncStub:
        return RunStoreStub(self.channel)

    async def getById(self, id: str) -> WorkflowInstance | None:
        """Reads one, or `None`."""
        request = pb.ReadRunRequest(namespace=self.namespace, workflow_id=id, data_names=_EVERY)
        answer = await self.call(self._stub.ReadRun, request)
        return await self._instance(answer.run) if answer.found else None

    async def query(self, query: WorkflowInstanceQuery) -> Sequence[WorkflowInstance]:
        """Finds instances, newest first."""
        bounds = ((">=", query.createdAfter), ("<", query.createdBefore))
        times = [f'create_time {op} "{text_of(time)}"' for op, time in bounds if time is not None]
        request = self._listing(query.statuses, times)
        request.correlation_id = query.correlationId
        if query.workflowId:
            request.definition.definition_id = query.workflowId
        return await self._listed(request, query.limit, query.offset)

    async def listByDefinition(self, workflowId: str, limit: int = 100, offset: int = 0) -> Sequence[WorkflowInstance]:
        """Instances of a definition, by its id, newest first."""
        request = self._listing()
        request.definition.definition_id = workflowId
        return await self._listed(request, limit, offset)

    async def listByStatus(
        self, status: WorkflowStatus, limit: int = 100, offset: int = 0
    ) -> Sequence[WorkflowInstance]:
        """Instances of a status, newest first."""
        return await self._listed(self._listing([status]), limit, offset)

    async def listActive(self, limit: int = 100, offset: int = 0) -> Sequence[WorkflowInstance]:
        """Instances that have not ended, newest first."""
        request = self._listing()
        request.phases.extend(OPEN)
        return await self._listed(request, limit, offset)

    async def getByCorrelationId(self, correlationId: str) -> Sequence[WorkflowInstance]:
        """All instances of a correlation id, newest first."""
        request = self._listing()
        request.correlation_id = correlationId
        return await self._listed(request, None, 0)

    async def getChildInstances(self, parentInstanceId: str) -> Sequence[WorkflowInstance]:
        """All children of an instance, newest first. An unknown one has none."""
        request = pb.ListChildRunsRequest(
            namespace=self.namespace, workflow_id=parentInstanceId, payloads=True, data_names=_EVERY
        )
        return [await self._instance(run) for run in await self.every(self._stub.ListChildRuns, request, "runs")]

    async def create(self, instance: WorkflowInstance) -> WorkflowInstance:
        """Keeps a new instance, and gives it as it is kept.

        Raises `WorkflowIdInUse` or `RunExists` if there is one of that id, `DefinitionNotFound`, `RunNotFound` of the
        parent. One that is to begin as neither pending nor running is created pending, and then updated.
        """
        begins = instance.status in {WorkflowStatus.pending, WorkflowStatus.running}
        request = pb.CreateRunRequest(
            namespace=self.namespace,
            workflow_id=instance.id,
            definition=DefinitionRef(definition_id=instance.workflowId, version=instance.workflowVersion),
            input=payload_of(dict(instance.input)),
            initial_phase=ASKED[instance.status][0] if begins else RunPhase.RUN_PHASE_PENDING,
            parent_workflow_id=instance.parentInstanceId or "",
            correlation_id=instance.correlationId or "",
            data={name: payload_of(value) for name, value in data_of(instance).items()},
        )
        run_id = (await self.call(self._stub.CreateRun, request)).run_id
        if not begins:
            await self._update(instance, version=1)
        return await self._kept(run_id)

    async def update(self, instance: WorkflowInstance) -> WorkflowInstance:
        """Writes status, output, tokens and the rest of the record together, and gives the instance as it is kept.

        What it was created with stays: input, definition, parent, correlation id. Raises `RunNotFound`, `RunTerminal`,
        and `RunDataChanged` if it has another version than the record; version `None` writes in any case.

        Differs: Vyuh's example writes over whatever there is, and so loses what others wrote meanwhile.
        """
        return await self._kept(await self._update(instance, instance.version))

    async def updateStatus(self, id: str, status: WorkflowStatus) -> bool:
        """Moves an instance. False if there is none. Raises `RunTerminal`.

        Differs: what has begun is pending no more, and raises `RunPhaseConflict`.
        """
        phase, pause_reason = ASKED[status]
        request = pb.UpdateDrivenRunRequest(
            namespace=self.namespace, workflow_id=id, phase=phase, pause_reason=pause_reason
        )
        return await self._found(self._stub.UpdateDrivenRun, request)

    async def updateOutput(self, id: str, output: Mapping[str, Any], *, merge: bool = False) -> bool:
        """Replaces the output; `merge` keeps members that are not named. False if there is no such instance.

        Raises `RunTerminal`.
        """
        payload = payload_of(dict(output))
        change = (
            pb.RunDataChange(name="output", merge=payload) if merge else pb.RunDataChange(name="output", set=payload)
        )
        request = pb.SetRunDataRequest(namespace=self.namespace, workflow_id=id, changes=[change])
        return await self._found(self._stub.SetRunData, request)

    async def updateTokens(self, id: str, tokens: Sequence[WorkflowToken]) -> bool:
        """Replaces the tokens. False if there is no such instance. Raises `RunTerminal`."""
        change = pb.RunDataChange(name="tokens", set=payload_of(tokens_of(tokens)))
        request = pb.SetRunDataRequest(namespace=self.namespace, workflow_id=id, changes=[change])
        return await self._found(self._stub.SetRunData, request)

    async def delete(self, id: str) -> bool:
        """Deletes an instance with all that is its own, also one that has not ended. False if there is none."""
        stub = RetentionServiceStub(self.channel)
        request = retention_pb2.DeleteRunRequest(namespace=self.namespace, workflow_id=id, force=True)
        return (await self.call(stub.DeleteRun, request)).deleted

    async def countByStatus(self) -> dict[WorkflowStatus, int]:
        """How many instances have each status that any has."""
        stub = StatisticsServiceStub(self.channel)
        counted = {}
        for status, (_, fits) in FOUND.items():
            request = CountRunsRequest(namespace=self.namespace, filter=f"driven = true AND {fits}")
            counted[status] = (await self.call(stub.CountRuns, request)).total
        return {status: count for status, count in counted.items() if count}

    async def getStaleRunningInstances(self, *, staleThreshold: dt.timedelta) -> Sequence[WorkflowInstance]:
        """All instances that are running, and that nobody has changed for longer than the threshold."""
        before = dt.datetime.now(dt.UTC) - staleThreshold
        request = self._listing([WorkflowStatus.running], [f'update_time < "{text_of(before)}"'])
        return await self._listed(request, None, 0)

    def _listing(
        self, statuses: Sequence[WorkflowStatus] = (), filters: Sequence[str] = ()
    ) -> pb.ListDrivenRunsRequest:
        found = [FOUND[status] for status in statuses]
        parts = [*([f"({' OR '.join(text for _, text in found)})"] if found else []), *filters]
        return pb.ListDrivenRunsRequest(
            namespace=self.namespace,
            phases=dict.fromkeys(phase for phases, _ in found for phase in phases),
            filter=" AND ".join(parts),
            payloads=True,
            data_names=_EVERY,
        )

    async def _listed(
        self, request: pb.ListDrivenRunsRequest, limit: int | None, offset: int
    ) -> Sequence[WorkflowInstance]:
        runs = await self.window(self._stub.ListDrivenRuns, request, "runs", limit=limit, offset=offset)
        return [await self._instance(run) for run in runs]

    async def _update(self, instance: WorkflowInstance, version: int | None) -> str:
        phase, pause_reason = ASKED[instance.status]
        completed = instance.status is WorkflowStatus.completed
        request = pb.UpdateDrivenRunRequest(
            namespace=self.namespace,
            workflow_id=instance.id,
            phase=phase,
            result=payload_of(dict(instance.output)) if completed else None,
            failure=failure_of(instance),
            pause_reason=pause_reason,
            changes=[pb.RunDataChange(name=name, set=payload_of(value)) for name, value in data_of(instance).items()],
            expected_version=version,
        )
        return (await self.call(self._stub.UpdateDrivenRun, request)).run_id

    async def _found(self, method: Any, request: Any) -> bool:  # noqa: ANN401 - any call about one run
        try:
            return bool((await self.call(method, request)).run_id)
        except RunNotFound:
            return False

    async def _kept(self, run_id: str) -> WorkflowInstance:
        request = pb.ReadRunRequest(namespace=self.namespace, run_id=run_id, data_names=_EVERY)
        answer = await self.call(self._stub.ReadRun, request)
        if not answer.found:
            raise RunNotFound(f"run {run_id} was deleted meanwhile")
        return await self._instance(answer.run)

    async def _instance(self, run: Run) -> WorkflowInstance:
        data = dict(run.data)
        if run.data_omitted:
            request = pb.GetRunDataRequest(namespace=self.namespace, run_id=run.run_id)
            for page in await self._pages(request):
                data |= page.data
        return instance_of(run, {name: value_of(payload) for name, payload in data.items()})

    async def _pages(self, request: pb.GetRunDataRequest) -> list[pb.GetRunDataResponse]:
        pages = [await self.call(self._stub.GetRunData, request)]
        while pages[-1].next_page_token:
            request.page_token = pages[-1].next_page_token
            pages.append(await self.call(self._stub.GetRunData, request))
        return pages
