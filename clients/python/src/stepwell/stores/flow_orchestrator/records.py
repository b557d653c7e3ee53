"""FlowOrchestrator's records and statuses, and how they come out of the protocol's messages."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

from stepwell.stores._connection import time_of
from stepwell.v1 import runs_pb2
from stepwell.v1.run_control_store_pb2 import RunControl
from stepwell.v1.types_pb2 import Payload, RunPhase


class RunStatus(StrEnum):
    """How far a run has come."""

    Running = "Running"
    Succeeded = "Succeeded"
    Failed = "Failed"
    Skipped = "Skipped"
    Cancelled = "Cancelled"
    TimedOut = "TimedOut"


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


def status_of(phase: RunPhase.ValueType) -> RunStatus:
    """The status of a phase. One that has not ended is Running, whatever it waits for."""
    return _STATUSES.get(phase, RunStatus.Running)


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


def run_record(run: runs_pb2.Run) -> FlowRunRecord:
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
