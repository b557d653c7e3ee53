"""The record of an instance of Vyuh, and the run that it is.

Its status is the run's phase and pause:

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
from typing import TYPE_CHECKING, Any

from stepwell.stores._connection import time_of, value_of
from stepwell.v1.types_pb2 import Failure, RunPhase

if TYPE_CHECKING:
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


OPEN = (RunPhase.RUN_PHASE_PENDING, RunPhase.RUN_PHASE_RUNNING, RunPhase.RUN_PHASE_SUSPENDED)
_WAITING_FOR_USER, _PAUSED = WorkflowStatus.waitingForUser.value, WorkflowStatus.paused.value
# What a status asks of a run, as phase and pause; `paused` leaves the phase as it is.
ASKED: dict[WorkflowStatus, tuple[RunPhase.ValueType, str]] = {
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
FOUND: dict[WorkflowStatus, tuple[tuple[RunPhase.ValueType, ...], str]] = {
    WorkflowStatus.pending: (OPEN[:1], "(phase = PENDING AND paused = false)"),
    WorkflowStatus.running: (OPEN[1:2], "(phase = RUNNING AND paused = false)"),
    WorkflowStatus.paused: (OPEN, f"(paused = true AND pause_reason != {_WAITING_FOR_USER})"),
    WorkflowStatus.waitingForUser: (OPEN, f"(pause_reason = {_WAITING_FOR_USER})"),
    WorkflowStatus.waitingForSignal: (OPEN[2:], "(phase = SUSPENDED AND paused = false)"),
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


def status_of(run: Run) -> WorkflowStatus:
    """The status that a run's phase and pause stand for."""
    if run.phase not in OPEN:
        ended = (WorkflowStatus.completed, WorkflowStatus.failed, WorkflowStatus.cancelled)
        return next(status for status in ended if run.phase in FOUND[status][0])
    if run.HasField("pause"):
        is_waiting = run.pause.reason == _WAITING_FOR_USER
        return WorkflowStatus.waitingForUser if is_waiting else WorkflowStatus.paused
    open_ones = (WorkflowStatus.pending, WorkflowStatus.running, WorkflowStatus.waitingForSignal)
    return next(status for status in open_ones if run.phase == ASKED[status][0])


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


def data_of(instance: WorkflowInstance) -> dict[str, Any]:
    """What a run keeps of the record as its data, by name."""
    return {
        "output": dict(instance.output),
        "tokens": tokens_of(instance.tokens),
        "variables": dict(instance.variables),
        "metadata": dict(instance.metadata),
        "instance": {
            "runNumber": instance.runNumber,
            "parentNodeId": instance.parentNodeId,
            "startedAt": None if instance.startedAt is None else text_of(instance.startedAt),
        },
    }


def failure_of(instance: WorkflowInstance) -> Failure | None:
    """The failure of a run whose instance has failed with an error."""
    error = instance.error
    if instance.status is not WorkflowStatus.failed or error is None:
        return None
    return Failure(type=error.errorType, message=error.message, non_retryable=not error.isRetryable)


def tokens_of(tokens: Sequence[WorkflowToken]) -> list[dict[str, Any]]:
    """Tokens as they are kept: times as text."""
    return [
        {**asdict(token), "createdAt": None if token.createdAt is None else text_of(token.createdAt)}
        for token in tokens
    ]


def _token(spelt: Mapping[str, Any]) -> WorkflowToken:
    created = spelt.get("createdAt")
    return WorkflowToken(**{**spelt, "createdAt": None if created is None else dt.datetime.fromisoformat(created)})


def text_of(time: dt.datetime) -> str:
    """A time as it is kept, and as filters have it. Raises ValueError if it has no zone."""
    if time.tzinfo is None:
        raise ValueError(f"{time} has no time zone: say datetime.UTC, or which")
    return time.astimezone(dt.UTC).isoformat()
