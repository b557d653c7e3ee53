"""stem's records, and how they come of the protocol's messages."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from stepwell.stores._connection import time_of, value_of
from stepwell.v1.runs_pb2 import Run, Step
from stepwell.v1.topic_store_pb2 import Watcher
from stepwell.v1.types_pb2 import RunPhase

PARENT_KEY = "__stem.workflow.parentRunId"
RUNTIME_KEY = "__stem.workflow.runtime"


class WorkflowStatus(StrEnum):
    """How far a run has come. A new one is running, and nobody's."""

    running = "running"
    suspended = "suspended"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"

    @property
    def isTerminal(self) -> bool:
        """Whether the run has ended."""
        return self not in {WorkflowStatus.running, WorkflowStatus.suspended}


PHASES: dict[WorkflowStatus, tuple[RunPhase.ValueType, ...]] = {
    WorkflowStatus.running: (RunPhase.RUN_PHASE_PENDING, RunPhase.RUN_PHASE_RUNNING),
    WorkflowStatus.suspended: (RunPhase.RUN_PHASE_SUSPENDED,),
    WorkflowStatus.completed: (RunPhase.RUN_PHASE_COMPLETED, RunPhase.RUN_PHASE_SKIPPED),
    WorkflowStatus.failed: (RunPhase.RUN_PHASE_FAILED, RunPhase.RUN_PHASE_TIMED_OUT),
    WorkflowStatus.cancelled: (RunPhase.RUN_PHASE_CANCELLED, RunPhase.RUN_PHASE_TERMINATED),
}
_STATUSES = {phase: status for status, phases in PHASES.items() for phase in phases}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowCancellationPolicy:
    """After how long a run, or its suspension, is to be cancelled. Its engine looks."""

    maxRunDuration: dt.timedelta | None = None
    maxSuspendDuration: dt.timedelta | None = None

    @property
    def isEmpty(self) -> bool:
        """Whether it says nothing."""
        return self.maxRunDuration is None and self.maxSuspendDuration is None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRuntimeMetadata:
    """What stem's runtime keeps among a run's params."""

    workflowId: str = ""
    orchestrationQueue: str = "workflow"
    continuationQueue: str = "workflow"
    executionQueue: str = "default"
    serializationFormat: str = "json"
    serializationVersion: str = "1"
    frameFormat: str = ""
    frameVersion: str = ""
    encryptionScope: str = "none"
    encryptionEnabled: bool = False
    streamId: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run as it is now. Without a value, maps are empty."""

    id: str
    workflow: str
    status: WorkflowStatus
    cursor: int
    params: dict[str, Any]
    createdAt: dt.datetime
    updatedAt: dt.datetime
    result: Any = None
    waitTopic: str | None = None
    resumeAt: dt.datetime | None = None
    lastError: dict[str, Any] = field(default_factory=dict)
    suspensionData: dict[str, Any] = field(default_factory=dict)
    ownerId: str | None = None
    leaseExpiresAt: dt.datetime | None = None
    cancellationPolicy: WorkflowCancellationPolicy = field(default_factory=WorkflowCancellationPolicy)
    cancellationData: dict[str, Any] = field(default_factory=dict)

    @property
    def workflowParams(self) -> dict[str, Any]:
        """The params without those of stem's own."""
        return {name: value for name, value in self.params.items() if name not in {PARENT_KEY, RUNTIME_KEY}}

    @property
    def parentRunId(self) -> str | None:
        """The parent, as the runtime noted it."""
        return self.params.get(PARENT_KEY)

    @property
    def runtimeMetadata(self) -> WorkflowRuntimeMetadata:
        """What the runtime noted."""
        return WorkflowRuntimeMetadata(**self.params.get(RUNTIME_KEY, {}))

    @property
    def isTerminal(self) -> bool:
        """Whether the run has ended."""
        return self.status.isTerminal


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowStepEntry:
    """A checkpoint, with its place in the order of execution from 0."""

    name: str
    value: Any
    position: int
    completedAt: dt.datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowWatcher:
    """A run that waits on a topic."""

    runId: str
    stepName: str
    topic: str
    createdAt: dt.datetime
    deadline: dt.datetime | None
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowWatcherResolution:
    """A run that an event woke, and what it resumes with."""

    runId: str
    stepName: str
    topic: str
    resumeData: dict[str, Any]


def run_state(run: Run) -> RunState:
    """The state of a run that came with its payloads."""
    policy, asked = run.cancellation_policy, run.cancel_request
    failure = {"error": run.failure.message, "stack": run.failure.stack_trace} if run.HasField("failure") else {}
    cancelled = {"reason": asked.reason, "cancelledAt": asked.time.ToDatetime(dt.UTC).isoformat()}
    return RunState(
        id=run.workflow_id,
        workflow=run.type,
        status=_STATUSES[run.phase],
        cursor=run.cursor,
        params=value_of(run.input) or {},
        createdAt=run.create_time.ToDatetime(dt.UTC),
        updatedAt=run.update_time.ToDatetime(dt.UTC),
        result=value_of(run.result),
        waitTopic=run.wait_topic or None,
        resumeAt=time_of(run, "wake_time"),
        lastError=failure,
        suspensionData=_suspension_data(run),
        ownerId=run.owner_id or None,
        leaseExpiresAt=time_of(run, "lease_expire_time"),
        cancellationPolicy=WorkflowCancellationPolicy(
            maxRunDuration=_length(policy, "maximum_run_duration"),
            maxSuspendDuration=_length(policy, "maximum_suspend_duration"),
        ),
        cancellationData=cancelled if run.HasField("cancel_request") else {},
    )


def step_entry(position: int, step: Step) -> WorkflowStepEntry:
    """A checkpoint at that place."""
    return WorkflowStepEntry(
        name=step.key or step.name,
        value=value_of(step.result),
        position=position,
        completedAt=time_of(step, "end_time"),
    )


def watcher(found: Watcher) -> WorkflowWatcher:
    """A watcher."""
    return WorkflowWatcher(
        runId=found.workflow_id,
        stepName=found.step_name,
        topic=found.topic,
        createdAt=found.create_time.ToDatetime(dt.UTC),
        deadline=time_of(found, "deadline"),
        data=value_of(found.data) or {},
    )


def event_data(data: dict[str, Any], step: str, topic: str, payload: object, time: dt.datetime) -> dict[str, Any]:
    """What a run resumes with after an event: the data of its suspension, and the event."""
    event = {"type": "event", "topic": topic, "payload": payload, "deliveredAt": time.isoformat()}
    return {"step": step, "iterationStep": step, **data, **event}


def _suspension_data(run: Run) -> dict[str, Any]:
    """What its engine left, with what came of it: an event, a deadline that passed, or a rewind."""
    data, wake = value_of(run.suspension_data) or {}, run.wake
    if wake.cause == Run.Wake.CAUSE_TOPIC:
        return event_data(data, wake.step_name, wake.topic, value_of(wake.payload), wake.time.ToDatetime(dt.UTC))
    if wake.cause == Run.Wake.CAUSE_TIME and wake.topic:
        return {**data, "timedOut": True}
    is_rewound = run.phase == RunPhase.RUN_PHASE_SUSPENDED and not (wake.cause or run.wait_topic or data)
    if is_rewound and not run.HasField("wake_time"):
        return {"step": run.active_step, "iteration": 0, "iterationStep": run.active_step}
    return data


def _length(message: Any, name: str) -> dt.timedelta | None:  # noqa: ANN401 - any message
    return getattr(message, name).ToTimedelta() if message.HasField(name) else None
