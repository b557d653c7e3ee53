"""Jobs: started, cancelled, and retried after they failed. What workers and time do to them is as with activities."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from stepwell_server import errors
from stepwell_server.engine import grants
from stepwell_server.engine.job_change import JobChange
from stepwell_server.engine.limits import Limits
from stepwell_server.engine.starts import Conflict, Fate, Reuse, fate_of
from stepwell_server.engine.wishes import Missing
from stepwell_server.ids import uuid7
from stepwell_server.model.jobs import JOB_ORDINAL, Job, JobRef
from stepwell_server.model.payloads import NULL, Payload
from stepwell_server.model.steps import NO_STEP_DETAILS, StepDetails, StepState, pack_step_details

if TYPE_CHECKING:
    from stepwell_server.engine.names import JobBirths


class NewJob(msgspec.Struct, frozen=True, gc=False):
    """A job to start."""

    namespace_id: int
    namespace: str
    type: str
    task_queue: str
    job_id: UUID | None = None
    unique_key: str = ""
    input: Payload = NULL
    priority: int = 4
    correlation_id: str = ""
    traceparent: str = ""
    tracestate: str = ""
    delay_seconds: float | None = None
    retention_seconds: float = 0.0
    details: StepDetails = NO_STEP_DETAILS


class StartedJob(msgspec.Struct, frozen=True, gc=False):
    """The answer to a start."""

    job_id: UUID
    job_key: int
    started: bool


class StartJob(msgspec.Struct, frozen=True, gc=False):
    """Starts a job, or finds it: by its id on a repeat, by its unique key where the policies say so."""

    new: NewJob
    reuse: int = Reuse.ALLOW
    conflict: int = Conflict.FAIL
    request_id: str = ""
    request_hash: bytes | None = None

    def decide(self, births: JobBirths, now: datetime, limits: Limits) -> StartedJob:
        """Refuses with JOB_EXISTS, UNIQUE_KEY_IN_USE or REQUEST_ID_REUSED."""
        found = self._repeat_of(births) or self._namesake(births)
        if found is not None:
            return found
        change = open_job(self.new, births, now, limits)
        births.bear(change, self.request_hash)
        return StartedJob(change.job_id, change.key, started=True)

    def _repeat_of(self, births: JobBirths) -> StartedJob | None:
        new = self.new
        if new.job_id is None:
            return None
        known = births.with_id(new.namespace_id, new.job_id)
        if known is None:
            return None
        if self.request_hash is None or known.request_hash is None:
            raise errors.JobExists(namespace=new.namespace, unique_key=new.unique_key, job_id=new.job_id)
        if known.request_hash != self.request_hash:
            raise errors.RequestIdReused(method="StartJob", request_id=self.request_id)
        return StartedJob(known.job_id, known.job_key, started=False)

    def _namesake(self, births: JobBirths) -> StartedJob | None:
        new = self.new
        if not new.unique_key:
            return None
        latest = births.named(new.namespace_id, new.unique_key)
        fate = fate_of(latest, self.reuse, self.conflict)
        if latest is None or fate is Fate.FREE:
            return None
        if fate is Fate.USES:
            return StartedJob(latest.id, latest.key, started=False)
        refusal = errors.UniqueKeyInUse if fate is Fate.IN_USE else errors.JobExists
        raise refusal(namespace=new.namespace, unique_key=new.unique_key, job_id=latest.id)


def open_job(new: NewJob, births: JobBirths, now: datetime, limits: Limits) -> JobChange:
    """A new job as a change: its row, and its task unless it begins later."""
    begins = now + timedelta(seconds=new.delay_seconds or 0.0)
    job = Job(
        job_key=births.next_key(),
        namespace_id=new.namespace_id,
        job_id=new.job_id or uuid7(),
        unique_key=new.unique_key,
        type=new.type,
        task_queue=new.task_queue,
        priority=new.priority,
        correlation_id=new.correlation_id,
        traceparent=new.traceparent,
        tracestate=new.tracestate,
        create_time=now,
        retention_seconds=new.retention_seconds,
        schedule_time=begins,
        state=StepState.PENDING,
        attempt=0,
        grants=0,
        session_id=None,
        returns=0,
        owner_id="",
        start_time=None,
        wake_time=begins,
        cancel_reason=None,
        cancel_time=None,
        retries=0,
        details=pack_step_details(new.details),
    )
    change = JobChange(now=now, limits=limits, births=births, job=job, fresh=True, given=new.input)
    if begins <= now:
        grants.requeue(change, job)
    return change


class SteeredJob(msgspec.Struct, frozen=True, gc=False):
    """The answer to a call that steers a job."""

    accepted: bool
    job_id: UUID
    state: int


class CancelJob(msgspec.Struct, frozen=True, gc=False):
    """Asks a job to stop. One that nobody is at ends at once; else its worker hears, and says what came of it."""

    ref: JobRef
    reason: str

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: JobChange) -> SteeredJob:
        job = change.job
        if job is None or job.cancel_requested:
            return SteeredJob(accepted=False, job_id=change.job_id, state=change.phase)
        change.update(cancel_reason=self.reason, cancel_time=change.now)
        if job.session_id is None:
            grants.end_without_result(change, change.open, None)
        else:
            change.news.cancel(job.session_id, JOB_ORDINAL, job.grants, self.reason)
        return SteeredJob(accepted=True, job_id=change.job_id, state=change.phase)


class RetryJob(msgspec.Struct, frozen=True, gc=False):
    """Begins a job anew that has failed: its attempts are counted from the first, its token goes on rising."""

    ref: JobRef

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: JobChange) -> SteeredJob:
        """Refuses with JOB_NOT_FAILED, or UNIQUE_KEY_IN_USE if another one bears its key meanwhile."""
        job = change.closed_job
        if job is None or job.state != StepState.FAILED:
            raise errors.JobNotFailed(job_id=change.job_id, state=change.phase.name)
        change.reopen()
        change.births.take_again(change.open, self.ref.namespace)
        grants.requeue(change, change.open)
        return SteeredJob(accepted=True, job_id=change.job_id, state=change.phase)
