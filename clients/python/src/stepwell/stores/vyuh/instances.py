"""Vyuh's `WorkflowInstanceRepository`: driven runs that follow a definition.

An instance's id is its run's `workflow_id`, which no second run ever has. Its status is the run's phase and pause:

| status | phase | paused | why |
|---|---|---|---|
| `pending` | PENDING | no | nobody has begun it |
| `running` | RUNNING | no | |
| `paused` | any open one | yes | it is not worked on, whatever it does next: `ClaimRun` does not give it to anybody |
| `waitingForUser` | SUSPENDED | for that reason | no engine can go on with it, only a person's answer |
| `waitingForSignal` | SUSPENDED | no | what it waits for may come at any moment |
| `completed` | COMPLETED | | |
| `failed` | FAILED, TIMED_OUT | | |
| `cancelled` | CANCELLED, TERMINATED, SKIPPED | | |

Output, tokens, variables, metadata and the rest of the record are the run's data; `version` is the data's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stepwell.reasons import RunNotFound
from stepwell.stores._connection import Store, payload_of, time_of, value_of
from stepwell.v1 import retention_pb2
from stepwell.v1 import run_store_pb2 as pb
from stepwell.v1.definitions_pb2 import DefinitionRef
from stepwell.v1.retention_pb2_grpc import RetentionServiceStub
from stepwell.v1.run_store_pb2_grpc import RunStoreStub
from stepwell.v1.statistics_pb2 import CountRunsRequest
from stepwell.v1.statistics_pb2_grpc import StatisticsServiceStub
from stepwell.v1.types_pb2 import Failure, RunPhase

if TYPE_CHECKING:
    from stepwell.v1.run_store_pb2_grpc import RunStoreAsyncStub
    from stepwell.v1.runs_pb2 import Run


class WorkflowStatus(StrEnum):
    """How far an instance has come."""

    pending = "pending"
    running = "running"
    paused = "paused"
    waitingForUser = "waitingForUser"
    waitingForSignal = "waitingForSignal"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"


@dataclass(frozen=True, kw_only=True)
class WorkflowToken:
    """Where an instance is."""

    id: str
    currentNodeId: str
    previousNodeId: str | None = None
    isActive: bool = True
    createdAt: dt.datetime | None = None
    branchId: str | None = None
    parentTokenId: str | None = None


@dataclass(frozen=True, kw_only=True)
class WorkflowError:
    """Why an instance failed."""

    errorType: str
    message: str
    isRetryable: bool = False


@dataclass(frozen=True, kw_only=True)
class WorkflowInstance:
    """An instance as it is stored. `version` is ours: of one that was read, `update` finds out who was faster."""

    id: str
    workflowId: str
    workflowVersion: int = 0
    status: WorkflowStatus = WorkflowStatus.pending
    input: Mapping[str, Any] = field(default_factory=dict)
    output: Mapping[str, Any] = field(default_factory=dict)
    tokens: Sequence[WorkflowToken] = ()
    runNumber: int = 1
    parentInstanceId: str | None = None
    parentNodeId: str | None = None
    error: WorkflowError | None = None
    createdAt: dt.datetime | None = None
    updatedAt: dt.datetime | None = None
    startedAt: dt.datetime | None = None
    finishedAt: dt.datetime | None = None
    correlationId: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    version: int | None = None


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


_OPEN = (RunPhase.RUN_PHASE_PENDING, RunPhase.RUN_PHASE_RUNNING, RunPhase.RUN_PHASE_SUSPENDED)
_WAITING_FOR_USER, _PAUSED = WorkflowStatus.waitingForUser.value, WorkflowStatus.paused.value
# What a status asks of a run, as phase and pause; `paused` leaves the phase as it is.
_ASKED: dict[WorkflowStatus, tuple[RunPhase.ValueType, str]] = {
    WorkflowStatus.pending: (RunPhase.RUN_PHASE_PENDING, ""),
    WorkflowStatus.running: (RunPhase.RUN_PHASE_RUNNING, ""),
    WorkflowStatus.paused: (RunPhase.RUN_PHASE_UNSPECIFIED, _PAUSED),
    WorkflowStatus.waitingForUser: (RunPhase.RUN_PHASE_SUSPENDED, _WAITING_FOR_USER),
    WorkflowStatus.waitingForSignal: (RunPhase.RUN_PHASE_SUSPENDED, ""),
    WorkflowStatus.completed: (RunPhase.RUN_PHASE_COMPLETED, ""),
    WorkflowStatus.failed: (RunPhase.RUN_PHASE_FAILED, ""),
    WorkflowStatus.cancelled: (RunPhase.RUN_PHASE_CANCELLED, ""),
}
# How runs of a status are found: by their phases, and by a filter.
_FOUND: dict[WorkflowStatus, tuple[tuple[RunPhase.ValueType, ...], str]] = {
    WorkflowStatus.pending: (_OPEN[:1], "(phase = PENDING AND paused = false)"),
    WorkflowStatus.running: (_OPEN[1:2], "(phase = RUNNING AND paused = false)"),
    WorkflowStatus.paused: (_OPEN, f"(paused = true AND pause_reason != {_WAITING_FOR_USER})"),
    WorkflowStatus.waitingForUser: (_OPEN, f"(pause_reason = {_WAITING_FOR_USER})"),
    WorkflowStatus.waitingForSignal: (_OPEN[2:], "(phase = SUSPENDED AND paused = false)"),
    WorkflowStatus.completed: ((RunPhase.RUN_PHASE_COMPLETED,), "(phase = COMPLETED)"),
    WorkflowStatus.failed: (
        (RunPhase.RUN_PHASE_FAILED, RunPhase.RUN_PHASE_TIMED_OUT),
        "(phase = FAILED OR phase = TIMED_OUT)",
    ),
    WorkflowStatus.cancelled: (
        (RunPhase.RUN_PHASE_CANCELLED, RunPhase.RUN_PHASE_TERMINATED, RunPhase.RUN_PHASE_SKIPPED),
        "(phase = CANCELLED OR phase = TERMINATED OR phase = SKIPPED)",
    ),
}
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
        times = [f'create_time {op} "{_text(time)}"' for op, time in bounds if time is not None]
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
        request.phases.extend(_OPEN)
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
            initial_phase=_ASKED[instance.status][0] if begins else RunPhase.RUN_PHASE_PENDING,
            parent_workflow_id=instance.parentInstanceId or "",
            correlation_id=instance.correlationId or "",
            data={name: payload_of(value) for name, value in _data(instance).items()},
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
        phase, pause_reason = _ASKED[status]
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
        change = pb.RunDataChange(name="tokens", set=payload_of(_spelt(tokens)))
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
        for status, (_, fits) in _FOUND.items():
            request = CountRunsRequest(namespace=self.namespace, filter=f"driven = true AND {fits}")
            counted[status] = (await self.call(stub.CountRuns, request)).total
        return {status: count for status, count in counted.items() if count}

    async def getStaleRunningInstances(self, *, staleThreshold: dt.timedelta) -> Sequence[WorkflowInstance]:
        """All instances that are running, and that nobody has changed for longer than the threshold."""
        before = dt.datetime.now(dt.UTC) - staleThreshold
        request = self._listing([WorkflowStatus.running], [f'update_time < "{_text(before)}"'])
        return await self._listed(request, None, 0)

    def _listing(
        self, statuses: Sequence[WorkflowStatus] = (), filters: Sequence[str] = ()
    ) -> pb.ListDrivenRunsRequest:
        found = [_FOUND[status] for status in statuses]
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
        phase, pause_reason = _ASKED[instance.status]
        completed = instance.status is WorkflowStatus.completed
        request = pb.UpdateDrivenRunRequest(
            namespace=self.namespace,
            workflow_id=instance.id,
            phase=phase,
            result=payload_of(dict(instance.output)) if completed else None,
            failure=_failure(instance),
            pause_reason=pause_reason,
            changes=[pb.RunDataChange(name=name, set=payload_of(value)) for name, value in _data(instance).items()],
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


def status_of(run: Run) -> WorkflowStatus:
    """The status that a run's phase and pause stand for."""
    if run.phase not in _OPEN:
        ended = (WorkflowStatus.completed, WorkflowStatus.failed, WorkflowStatus.cancelled)
        return next(status for status in ended if run.phase in _FOUND[status][0])
    if run.HasField("pause"):
        is_waiting = run.pause.reason == _WAITING_FOR_USER
        return WorkflowStatus.waitingForUser if is_waiting else WorkflowStatus.paused
    open_ones = (WorkflowStatus.pending, WorkflowStatus.running, WorkflowStatus.waitingForSignal)
    return next(status for status in open_ones if run.phase == _ASKED[status][0])


def instance_of(run: Run, data: Mapping[str, Any]) -> WorkflowInstance:
    """The record of a run that was read with its payloads and its data."""
    rest = data.get("instance", {})
    failed = status_of(run) is WorkflowStatus.failed
    started = rest.get("startedAt")
    return WorkflowInstance(
        id=run.workflow_id,
        workflowId=run.definition.definition_id,
        workflowVersion=run.definition.version,
        status=status_of(run),
        input=value_of(run.input) or {},
        output=data.get("output", {}),
        tokens=[_token(each) for each in data.get("tokens", [])],
        runNumber=rest.get("runNumber", 1),
        parentInstanceId=run.parent_workflow_id or None,
        parentNodeId=rest.get("parentNodeId"),
        error=WorkflowError(
            errorType=run.failure.type, message=run.failure.message, isRetryable=not run.failure.non_retryable
        )
        if failed
        else None,
        createdAt=time_of(run, "create_time"),
        updatedAt=time_of(run, "update_time"),
        startedAt=None if started is None else dt.datetime.fromisoformat(started),
        finishedAt=time_of(run, "end_time"),
        correlationId=run.correlation_id or None,
        metadata=data.get("metadata", {}),
        variables=data.get("variables", {}),
        version=run.data_version,
    )


def _data(instance: WorkflowInstance) -> dict[str, Any]:
    return {
        "output": dict(instance.output),
        "tokens": _spelt(instance.tokens),
        "variables": dict(instance.variables),
        "metadata": dict(instance.metadata),
        "instance": {
            "runNumber": instance.runNumber,
            "parentNodeId": instance.parentNodeId,
            "startedAt": None if instance.startedAt is None else _text(instance.startedAt),
        },
    }


def _failure(instance: WorkflowInstance) -> Failure | None:
    error = instance.error
    if instance.status is not WorkflowStatus.failed or error is None:
        return None
    return Failure(type=error.errorType, message=error.message, non_retryable=not error.isRetryable)


def _spelt(tokens: Sequence[WorkflowToken]) -> list[dict[str, Any]]:
    return [
        {**asdict(token), "createdAt": None if token.createdAt is None else _text(token.createdAt)} for token in tokens
    ]


def _token(spelt: Mapping[str, Any]) -> WorkflowToken:
    created = spelt.get("createdAt")
    return WorkflowToken(**{**spelt, "createdAt": None if created is None else dt.datetime.fromisoformat(created)})


def _text(time: dt.datetime) -> str:
    if time.tzinfo is None:
        raise ValueError(f"{time} has no time zone: say datetime.UTC, or which")
    return time.astimezone(dt.UTC).isoformat()
