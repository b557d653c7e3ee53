"""Jobs: activities without a run, open and closed. Field order is column order.

An open job bears the names of an open activity's step where both have the same, so that what is decided on the one is
decided on the other by the same code.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from stepwell_server.model.steps import ClosedStep, Kind, Step, StepState

JOB_ORDINAL = -1
"""Stands where the task of a run's activity has the ordinal of its step, and the task of a run 0."""
JOB_MOVES: dict[StepState, frozenset[StepState]] = {
    StepState.PENDING: frozenset({StepState.RUNNING, StepState.FAILED, StepState.CANCELLED}),
    StepState.RUNNING: frozenset({StepState.PENDING, StepState.COMPLETED, StepState.FAILED, StepState.CANCELLED}),
    StepState.COMPLETED: frozenset(),
    StepState.FAILED: frozenset({StepState.PENDING}),
    StepState.CANCELLED: frozenset(),
}
JOB_ENDED = frozenset({StepState.COMPLETED, StepState.FAILED, StepState.CANCELLED})


class Job(msgspec.Struct, frozen=True, gc=False):
    """An open job: a row of `jobs`, which is the lock of all that is open of it. Its input is apart."""

    job_key: int
    namespace_id: int
    job_id: UUID
    unique_key: str
    type: str
    task_queue: str
    priority: int
    correlation_id: str
    traceparent: str
    tracestate: str
    create_time: datetime
    retention_seconds: float
    # what changes:
    schedule_time: datetime
    state: int
    attempt: int
    grants: int
    session_id: UUID | None
    returns: int
    owner_id: str
    start_time: datetime | None
    wake_time: datetime | None
    cancel_reason: str | None
    cancel_time: datetime | None
    retries: int
    details: bytes | None

    @property
    def ordinal(self) -> int:
        """As a step has it."""
        return JOB_ORDINAL

    @property
    def kind(self) -> Kind:
        """As a step has it."""
        return Kind.ACTIVITY

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody asked it to stop."""
        return self.cancel_time is not None


class ClosedJob(msgspec.Struct, frozen=True, gc=False):
    """A job that has ended: a row of `closed_jobs`, but for its result."""

    job_key: int
    namespace_id: int
    job_id: UUID
    unique_key: str
    type: str
    task_queue: str
    priority: int
    correlation_id: str
    traceparent: str
    tracestate: str
    create_time: datetime
    retention_seconds: float
    schedule_time: datetime
    state: int
    attempt: int
    grants: int
    start_time: datetime | None
    cancel_reason: str | None
    cancel_time: datetime | None
    retries: int
    details: bytes | None
    end_time: datetime
    expire_time: datetime
    failure: bytes | None
    owner_id: str


Activity = Step | Job
"""What a worker performs: an activity of a run, or a job."""
EndedActivity = ClosedStep | ClosedJob


class JobRef(msgspec.Struct, frozen=True, gc=False):
    """Which job is meant: by key or by id."""

    namespace_id: int
    namespace: str
    job_key: int | None = None
    job_id: UUID | None = None

    @property
    def key(self) -> int | None:
        """Its key, if that is known."""
        return self.job_key

    @property
    def is_key(self) -> bool:
        """Whether it need not be looked up: the key says it all."""
        return self.job_key is not None and self.job_id is None

    @property
    def is_name(self) -> bool:
        """Whether it may mean another one later: never, a job is named by what is its own for ever."""
        return False

    @property
    def label(self) -> UUID | str:
        """How the caller named it."""
        return self.job_id or str(self.job_key)


class JobId(msgspec.Struct, frozen=True, gc=False):
    """A row of `job_ids`."""

    job_id: UUID
    namespace_id: int
    job_key: int
    request_hash: bytes | None
