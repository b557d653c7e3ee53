"""FlowOrchestrator's records and statuses, and how they come out of the protocol's messages."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

from stepwell.stores._connection import time_of
from stepwell.v1 import runs_pb2
from stepwell.v1.run_control_store_pb2 import RunControl
from stepwell.v1.run_store_pb2 import GetRunDetailResponse
from stepwell.v1.types_pb2 import Payload, RunPhase, StepState


class RunStatus(StrEnum):
    """How far a run has come."""

    Running = "Running"
    Succeeded = "Succeeded"
    Failed = "Failed"
    Skipped = "Skipped"
    Cancelled = "Cancelled"
    TimedOut = "TimedOut"


class StepStatus(StrEnum):
    """How far a step has come. Pending waits to be polled again; what was never begun has no status."""

    Pending = "Pending"
    Running = "Running"
    Succeeded = "Succeeded"
    Failed = "Failed"
    Skipped = "Skipped"


PREREQUISITES_UNMET = "Prerequisite status did not satisfy runAfter conditions."
"""Why a step is skipped that a retry of another may have done after all."""
STEP_STATES = {
    StepStatus.Pending: StepState.STEP_STATE_WAITING,
    StepStatus.Running: StepState.STEP_STATE_RUNNING,
    StepStatus.Succeeded: StepState.STEP_STATE_COMPLETED,
    StepStatus.Failed: StepState.STEP_STATE_FAILED,
    StepStatus.Skipped: StepState.STEP_STATE_SKIPPED,
}
# What its run's end cut short was not done, either.
_STEP_STATUSES = {state: status for status, state in STEP_STATES.items()} | {
    StepState.STEP_STATE_CANCELLED: StepStatus.Skipped,
}
_PHASES = {
    RunStatus.Succeeded: RunPhase.RUN_PHASE_COMPLETED,
    RunStatus.Failed: RunPhase.RUN_PHASE_FAILED,
    RunStatus.Skipped: RunPhase.RUN_PHASE_SKIPPED,
    RunStatus.Cancelled: RunPhase.RUN_PHASE_CANCELLED,
    RunStatus.TimedOut: RunPhase.RUN_PHASE_TIMED_OUT,
}
_STATUSES = {phase: status for status, phase in _PHASES.items()} | {
    RunPhase.RUN_PHASE_TERMINATED: RunStatus.Cancelled,
}


def phase_of(status: str) -> RunPhase.ValueType:
    """The phase of an ended run's status, in whatever case it is written. Raises `ValueError` for any other word."""
    for known, phase in _PHASES.items():
        if known.lower() == status.lower():
            return phase
    raise ValueError(f"{status!r} is not how a run ends: {', '.join(_PHASES)}")


def state_of(status: str) -> StepState.ValueType:
    """The state of a step's status, in whatever case it is written. Raises `ValueError` for any other word."""
    for known, state in STEP_STATES.items():
        if known.lower() == status.lower():
            return state
    raise ValueError(f"{status!r} is no status of a step: {', '.join(STEP_STATES)}")


def step_status(state: StepState.ValueType) -> StepStatus | None:
    """The status of a step's state; `None` for one that was never begun, or is as if it were not."""
    return _STEP_STATUSES.get(state)


def phases_of(status: str) -> list[RunPhase.ValueType]:
    """The phases of runs that have a status, in whatever case it is written; none for what is no status."""
    phases = [*_OPEN, *_STATUSES]
    return [phase for phase in phases if status_of(phase).lower() == status.lower()]


def status_of(phase: RunPhase.ValueType) -> RunStatus:
    """The status of a phase. One that has not ended is Running, whatever it waits for."""
    return _STATUSES.get(phase, RunStatus.Running)


_OPEN = (RunPhase.RUN_PHASE_PENDING, RunPhase.RUN_PHASE_RUNNING, RunPhase.RUN_PHASE_SUSPENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowStepAttemptRecord:
    """One attempt at a step."""

    RunId: str
    StepKey: str
    Attempt: int
    StepType: str
    Status: StepStatus
    InputJson: str | None
    OutputJson: str | None
    ErrorMessage: str | None
    JobId: str | None
    StartedAt: dt.datetime
    CompletedAt: dt.datetime | None
    EvaluationTraceJson: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowStepRecord:
    """One step of one run, with its attempts."""

    RunId: str
    StepKey: str
    StepType: str
    Status: StepStatus
    InputJson: str | None
    OutputJson: str | None
    ErrorMessage: str | None
    JobId: str | None
    StartedAt: dt.datetime
    CompletedAt: dt.datetime | None
    AttemptCount: int
    Attempts: tuple[FlowStepAttemptRecord, ...]
    EvaluationTraceJson: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRunRecord:
    """One run. `TriggerHeaders` is a dashboard's, and `Steps` only in a run's detail."""

    Id: str
    FlowId: str
    FlowName: str | None
    Status: RunStatus
    TriggerKey: str | None
    TriggerDataJson: str | None
    BackgroundJobId: str | None
    StartedAt: dt.datetime
    CompletedAt: dt.datetime | None
    SourceRunId: str | None
    TriggerHeaders: dict[str, str] | None = None
    Steps: tuple[FlowStepRecord, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRunControlRecord:
    """What controls one run."""

    RunId: str
    FlowId: str
    TriggerKey: str
    IdempotencyKey: str | None
    CreatedAtUtc: dt.datetime
    TimeoutAtUtc: dt.datetime | None
    CancelRequested: bool
    CancelReason: str | None
    CancelRequestedAtUtc: dt.datetime | None
    TimedOutAtUtc: dt.datetime | None


def json_of(payload: Payload) -> str | None:
    """A payload's JSON text, to the letter."""
    return payload.json if payload.WhichOneof("body") == "json" else None


def json_payload(text: str | None) -> Payload:
    """JSON text as a payload."""
    return Payload() if text is None else Payload(json=text)


def run_record(run: runs_pb2.Run, steps: tuple[FlowStepRecord, ...] | None = None) -> FlowRunRecord:
    """A run as the store has it. Its trigger's data is there if the run was told with its payloads."""
    return FlowRunRecord(
        Id=run.run_id,
        FlowId=run.type,
        FlowName=run.origin.title or None,
        Status=status_of(run.phase),
        TriggerKey=run.origin.trigger_key or None,
        TriggerDataJson=json_of(run.input),
        BackgroundJobId=run.correlation_id or None,
        StartedAt=run.create_time.ToDatetime(dt.UTC),
        CompletedAt=time_of(run, "end_time"),
        SourceRunId=run.source_run_id or None,
        Steps=steps,
    )


def control_record(control: RunControl) -> FlowRunControlRecord:
    """What controls a run as the store has it."""
    asked = control.HasField("cancel_request")
    return FlowRunControlRecord(
        RunId=control.run_id,
        FlowId=control.type,
        TriggerKey=control.trigger_key,
        IdempotencyKey=control.idempotency_key or None,
        CreatedAtUtc=control.create_time.ToDatetime(dt.UTC),
        TimeoutAtUtc=time_of(control, "deadline"),
        CancelRequested=asked,
        CancelReason=(control.cancel_request.reason or None) if asked else None,
        CancelRequestedAtUtc=time_of(control.cancel_request, "time") if asked else None,
        TimedOutAtUtc=time_of(control, "timed_out_time"),
    )


def attempt_record(run_id: str, key: str, attempt: GetRunDetailResponse.Attempt) -> FlowStepAttemptRecord:
    """An attempt as the store has it."""
    return FlowStepAttemptRecord(
        RunId=run_id,
        StepKey=key,
        Attempt=attempt.attempt,
        StepType=attempt.type,
        Status=step_status(attempt.state) or StepStatus.Running,
        InputJson=json_of(attempt.input),
        OutputJson=json_of(attempt.output),
        ErrorMessage=attempt.failure.message or attempt.skip.reason or None,
        JobId=attempt.job_id or None,
        StartedAt=attempt.start_time.ToDatetime(dt.UTC),
        CompletedAt=time_of(attempt, "end_time"),
        EvaluationTraceJson=json_of(attempt.skip.evaluation_trace),
    )


def step_record(run_id: str, detail: GetRunDetailResponse.StepDetail) -> FlowStepRecord | None:
    """A step as the store has it: what its latest attempt came to, unless another is to follow. `None` if not begun."""
    step, key, status = detail.step, detail.step.key or detail.step.name, step_status(detail.step.state)
    if status is None:
        return None
    attempts = tuple(attempt_record(run_id, key, each) for each in detail.attempts)
    last = attempts[-1] if attempts and status is not StepStatus.Running else None
    return FlowStepRecord(
        RunId=run_id,
        StepKey=key,
        StepType=step.type,
        Status=status,
        InputJson=json_of(step.input),
        OutputJson=last.OutputJson if last else None,
        ErrorMessage=last.ErrorMessage if last else None,
        JobId=step.job_id or None,
        StartedAt=(step.start_time if step.HasField("start_time") else step.create_time).ToDatetime(dt.UTC),
        CompletedAt=last.CompletedAt if last else None,
        AttemptCount=step.attempt,
        Attempts=attempts,
        EvaluationTraceJson=last.EvaluationTraceJson if last else None,
    )
