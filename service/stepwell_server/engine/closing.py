"""The closed forms of what was open, and back."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from msgspec.structs import replace

from stepwell_server.model.jobs import ClosedJob, Job
from stepwell_server.model.payloads import pack_failure, unpack_failure
from stepwell_server.model.runs import ClosedRun, Phase, Run
from stepwell_server.model.steps import ClosedStep, Step, StepState, pack_step_details, unpack_step_details

if TYPE_CHECKING:
    from datetime import datetime

    from stepwell_server.model.payloads import Failure

_STEP_FIELDS = [name for name in Step.__struct_fields__ if name in ClosedStep.__struct_fields__]
_JOB_FIELDS = [name for name in Job.__struct_fields__ if name in ClosedJob.__struct_fields__]
_RUN_FIELDS = [name for name in Run.__struct_fields__ if name in ClosedRun.__struct_fields__]


def close_step(step: Step, state: StepState, now: datetime, event: int, *, timed_out: bool = False) -> ClosedStep:
    """The ended form of an open step."""
    return ClosedStep(
        step.run_key,
        step.ordinal,
        step.scope,
        step.name,
        step.occurrence,
        step.key,
        step.kind,
        step.type,
        step.task_queue,
        step.priority,
        step.wait_name,
        step.seq,
        step.child_key,
        step.create_time,
        step.input_event,
        state,
        step.attempt,
        step.grants,
        step.start_time,
        now,
        event,
        timed_out,
        step.details,
    )


def open_step(step: ClosedStep) -> Step:
    """The open form of an ended step, which nobody has begun anew yet."""
    fields = {name: getattr(step, name) for name in _STEP_FIELDS}
    fresh = {"session_id": None, "returns": 0, "owner_id": "", "wake_time": None, "cancel_requested": False}
    return Step(**{**fields, **fresh, "state": StepState.PENDING})


def open_run(closed: ClosedRun, now: datetime) -> Run:
    """The open form of a run that had ended, which nobody holds; its history and its tokens go on.

    Nobody asks it to cancel any more, and it is not pinned to a build, since its code may have been mended.
    """
    fields = {name: getattr(closed, name) for name in _RUN_FIELDS}
    fresh = {
        "phase": Phase.RUNNING if closed.grants else Phase.PENDING,
        "open_steps": 0,
        "session_id": None,
        "returns": 0,
        "queued": False,
        "dirty": False,
        "owner_id": "",
        "lease_expire_time": None,
        "pause_reason": None,
        "cancel_reason": None,
        "cancel_time": None,
        "build_id": "",
        "update_time": now,
        "suspend_time": None,
        "wake_time": None,
    }
    return Run(**{**fields, **fresh})


def close_run(run: Run, phase: Phase, now: datetime, event: int) -> ClosedRun:
    """The closed form of an open run."""
    return ClosedRun(
        run.run_key,
        run.namespace_id,
        run.run_id,
        run.workflow_id,
        run.type,
        run.task_queue,
        run.priority,
        run.driven,
        run.managed,
        run.parent_key,
        run.parent_ordinal,
        run.correlation_id,
        run.traceparent,
        run.tracestate,
        run.create_time,
        run.deadline,
        phase,
        run.version + 1,
        run.last_event,
        run.last_step,
        run.last_signal,
        run.order_count,
        run.order_hash,
        run.grants,
        run.cancel_reason,
        run.cancel_time,
        run.build_id,
        now,
        event,
        run.details,
    )


def close_job(job: Job, state: StepState, now: datetime, failure: Failure | None) -> ClosedJob:
    """The closed form of an open job, with the end of its retention."""
    return ClosedJob(
        job.job_key,
        job.namespace_id,
        job.job_id,
        job.unique_key,
        job.type,
        job.task_queue,
        job.priority,
        job.correlation_id,
        job.traceparent,
        job.tracestate,
        job.create_time,
        job.retention_seconds,
        job.schedule_time,
        state,
        job.attempt,
        job.grants,
        job.start_time,
        job.cancel_reason,
        job.cancel_time,
        job.retries,
        job.details,
        now,
        now + timedelta(seconds=job.retention_seconds),
        pack_failure(failure),
        job.owner_id,
    )


def open_job(job: ClosedJob, now: datetime) -> Job:
    """The open form of a job that had failed and is retried, with its failure as its last attempt's."""
    details = replace(unpack_step_details(job.details), last_failure=unpack_failure(job.failure))
    kept = {name: getattr(job, name) for name in _JOB_FIELDS}
    fresh = {"session_id": None, "returns": 0, "owner_id": "", "start_time": None, "wake_time": None}
    anew = {"schedule_time": now, "state": StepState.PENDING, "attempt": 0, "retries": job.retries + 1}
    return Job(**{**kept, **fresh, **anew, "details": pack_step_details(details)})
