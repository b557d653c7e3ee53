"""assay's records, and how they come of the protocol's messages. Times are seconds since 1970."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stepwell.search_attributes import values_of
from stepwell.stores._connection import seconds_of
from stepwell.v1.activity_store_pb2 import Activity
from stepwell.v1.history_pb2 import Event
from stepwell.v1.runs_pb2 import Run
from stepwell.v1.schedules_pb2 import Schedule, ScheduleOverlapPolicy
from stepwell.v1.timer_store_pb2 import Timer
from stepwell.v1.types_pb2 import Payload, RunPhase, StepState
from stepwell.v1.worker_store_pb2 import RegisteredWorker


class WorkflowStatus(StrEnum):
    """How far a workflow has come."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


class ActivityStatus(StrEnum):
    """How far an activity has come."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class OverlapPolicy(StrEnum):
    """What happens when a schedule is due while a run of it is open."""

    skip = "skip"
    queue = "queue"
    cancel_old = "cancel_old"
    allow_all = "allow_all"


PHASES: dict[WorkflowStatus, tuple[RunPhase.ValueType, ...]] = {
    WorkflowStatus.PENDING: (RunPhase.RUN_PHASE_PENDING,),
    WorkflowStatus.RUNNING: (RunPhase.RUN_PHASE_RUNNING,),
    WorkflowStatus.WAITING: (RunPhase.RUN_PHASE_SUSPENDED,),
    WorkflowStatus.COMPLETED: (RunPhase.RUN_PHASE_COMPLETED, RunPhase.RUN_PHASE_SKIPPED),
    WorkflowStatus.FAILED: (RunPhase.RUN_PHASE_FAILED, RunPhase.RUN_PHASE_TERMINATED),
    WorkflowStatus.CANCELLED: (RunPhase.RUN_PHASE_CANCELLED,),
    WorkflowStatus.TIMED_OUT: (RunPhase.RUN_PHASE_TIMED_OUT,),
}
"""A terminated workflow is a failed one for assay; the first phase of each is the one that is set."""
OVERLAPS = {
    OverlapPolicy.skip: ScheduleOverlapPolicy.SCHEDULE_OVERLAP_POLICY_SKIP,
    OverlapPolicy.queue: ScheduleOverlapPolicy.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE,
    OverlapPolicy.cancel_old: ScheduleOverlapPolicy.SCHEDULE_OVERLAP_POLICY_CANCEL_OTHER,
    OverlapPolicy.allow_all: ScheduleOverlapPolicy.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL,
}
_STATUSES = {phase: status for status, phases in PHASES.items() for phase in phases}
_OVERLAPS = {ours: policy for policy, ours in OVERLAPS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRecord:
    """A workflow. `run_id` is text of the caller's; the times are the service's."""

    id: str
    workflow_type: str
    namespace: str = "main"
    run_id: str = ""
    task_queue: str = "main"
    status: WorkflowStatus = WorkflowStatus.PENDING
    input: str | None = None
    result: str | None = None
    error: str | None = None
    parent_id: str | None = None
    claimed_by: str | None = None
    search_attributes: str | None = None
    archived_at: float | None = None
    archive_uri: str | None = None
    created_at: float = 0.0
    updated_at: float = 0.0
    completed_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowEvent:
    """An event of the caller's, under its own number."""

    workflow_id: str
    seq: int
    event_type: str
    payload: str | None = None
    timestamp: float = 0.0
    id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowActivity:
    """An activity of a workflow."""

    workflow_id: str
    seq: int
    name: str
    task_queue: str = "main"
    input: str | None = None
    status: ActivityStatus = ActivityStatus.PENDING
    result: str | None = None
    error: str | None = None
    attempt: int = 1
    max_attempts: int = 3
    initial_interval_secs: float = 1.0
    backoff_coefficient: float = 2.0
    start_to_close_secs: float = 300.0
    heartbeat_timeout_secs: float | None = None
    claimed_by: str | None = None
    scheduled_at: float | None = None
    started_at: float | None = None
    completed_at: float | None = None
    last_heartbeat: float | None = None
    id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowTimer:
    """A timer of a workflow. One that was cancelled counts as fired, as in assay."""

    workflow_id: str
    seq: int
    fire_at: float
    fired: bool = False
    id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowSignal:
    """A signal to a workflow."""

    workflow_id: str
    name: str
    payload: str | None = None
    consumed: bool = False
    received_at: float = 0.0
    id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowSchedule:
    """A schedule."""

    name: str
    workflow_type: str
    cron_expr: str
    namespace: str = "main"
    timezone: str = "UTC"
    input: str | None = None
    task_queue: str = "main"
    overlap_policy: OverlapPolicy = OverlapPolicy.skip
    paused: bool = False
    last_run_at: float | None = None
    next_run_at: float | None = None
    last_workflow_id: str | None = None
    created_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePatch:
    """What to change of a schedule. `input` is JSON text."""

    cron_expr: str | None = None
    timezone: str | None = None
    input: str | None = None
    task_queue: str | None = None
    overlap_policy: OverlapPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowWorker:
    """A worker. `workflows` and `activities` are JSON arrays of types."""

    id: str
    identity: str = ""
    namespace: str = "main"
    task_queue: str = "main"
    workflows: str | None = None
    activities: str | None = None
    max_concurrent_workflows: int = 10
    max_concurrent_activities: int = 10
    active_tasks: int = 0
    last_heartbeat: float = 0.0
    registered_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowSnapshot:
    """A state of a workflow, as its worker told it."""

    workflow_id: str
    event_seq: int
    state_json: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeyRecord:
    """What is shown of a key."""

    prefix: str
    label: str | None
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceRecord:
    """A namespace."""

    name: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceStats:
    """What is in a namespace."""

    namespace: str
    total_workflows: int
    running: int
    pending: int
    completed: int
    failed: int
    schedules: int
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """What is in a queue."""

    queue: str
    pending_activities: int
    running_activities: int
    workers: int


def text_of(payload: Payload) -> str | None:
    """JSON text, or `None`."""
    return payload.json if payload.HasField("json") else None


def payload_of(text: str | None) -> Payload | None:
    """A payload with JSON text, kept to the letter."""
    return None if text is None else Payload(json=text)


def workflow_record(run: Run) -> WorkflowRecord:
    """A workflow that came with its payloads."""
    return WorkflowRecord(
        id=run.workflow_id,
        workflow_type=run.type,
        namespace=run.namespace,
        run_id=run.correlation_id or run.run_id,
        task_queue=run.task_queue,
        status=_STATUSES[run.phase],
        input=text_of(run.input),
        result=text_of(run.result),
        error=run.failure.message if run.HasField("failure") else None,
        parent_id=run.parent_workflow_id or None,
        claimed_by=run.owner_id or None,
        search_attributes=json.dumps(values_of(run.search_attributes)) if run.search_attributes else None,
        archived_at=seconds_of(run, "archive_time"),
        archive_uri=run.archive_uri or None,
        created_at=seconds_of(run, "create_time") or 0.0,
        updated_at=seconds_of(run, "update_time") or 0.0,
        completed_at=seconds_of(run, "end_time"),
    )


def workflow_event(workflow_id: str, event: Event) -> WorkflowEvent:
    """An event of a workflow."""
    return WorkflowEvent(
        workflow_id=workflow_id,
        seq=event.caller_seq,
        event_type=event.type,
        payload=text_of(event.payload),
        timestamp=seconds_of(event, "time") or 0.0,
        id=event.event_number,
    )


def workflow_activity(activity: Activity) -> WorkflowActivity:
    """An activity."""
    state = StepState.Name(activity.state).removeprefix("STEP_STATE_")
    return WorkflowActivity(
        workflow_id=activity.workflow_id,
        seq=activity.seq,
        name=activity.type,
        task_queue=activity.task_queue,
        input=text_of(activity.input),
        status=ActivityStatus(state),
        result=text_of(activity.result),
        error=activity.failure.message if activity.HasField("failure") else None,
        attempt=activity.attempt,
        max_attempts=activity.retry.maximum_attempts,
        initial_interval_secs=activity.retry.initial_interval.ToTimedelta().total_seconds(),
        backoff_coefficient=activity.retry.backoff_coefficient,
        start_to_close_secs=activity.start_to_close_timeout.ToTimedelta().total_seconds(),
        heartbeat_timeout_secs=_length(activity, "heartbeat_timeout"),
        claimed_by=activity.owner_id or None,
        scheduled_at=seconds_of(activity, "schedule_time"),
        started_at=seconds_of(activity, "start_time"),
        completed_at=seconds_of(activity, "end_time"),
        last_heartbeat=seconds_of(activity, "heartbeat_time"),
        id=activity.activity_number,
    )


def workflow_timer(timer: Timer) -> WorkflowTimer:
    """A timer."""
    return WorkflowTimer(
        workflow_id=timer.workflow_id,
        seq=timer.seq,
        fire_at=seconds_of(timer, "fire_time") or 0.0,
        fired=timer.state != StepState.STEP_STATE_WAITING,
        id=timer.timer_number,
    )


def workflow_schedule(namespace: str, schedule: Schedule) -> WorkflowSchedule:
    """A schedule that came with what its runs are given."""
    return WorkflowSchedule(
        name=schedule.name,
        workflow_type=schedule.run.type,
        cron_expr=schedule.spec.cron,
        namespace=namespace,
        timezone=schedule.spec.time_zone or "UTC",
        input=text_of(schedule.run.input),
        task_queue=schedule.run.task_queue,
        overlap_policy=_OVERLAPS[schedule.overlap_policy],
        paused=schedule.paused,
        last_run_at=seconds_of(schedule, "last_time"),
        next_run_at=seconds_of(schedule, "next_time"),
        last_workflow_id=schedule.last_workflow_id or None,
        created_at=seconds_of(schedule, "create_time") or 0.0,
    )


def workflow_worker(namespace: str, worker: RegisteredWorker) -> WorkflowWorker:
    """A worker."""
    return WorkflowWorker(
        id=worker.worker_id,
        identity=worker.identity,
        namespace=namespace,
        task_queue=worker.task_queue,
        workflows=json.dumps(list(worker.workflow_types)) if worker.workflow_types else None,
        activities=json.dumps(list(worker.activity_types)) if worker.activity_types else None,
        max_concurrent_workflows=worker.max_concurrent_workflows,
        max_concurrent_activities=worker.max_concurrent_activities,
        active_tasks=worker.active_tasks,
        last_heartbeat=seconds_of(worker, "heartbeat_time") or 0.0,
        registered_at=seconds_of(worker, "register_time") or 0.0,
    )


def _length(message: Any, name: str) -> float | None:  # noqa: ANN401 - any message
    return getattr(message, name).ToTimedelta().total_seconds() if message.HasField(name) else None
