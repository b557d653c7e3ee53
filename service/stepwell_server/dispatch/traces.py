"""What was committed, as spans, numbers and lines of the log: every claim, whichever way it went, is seen here, once.

A claim is counted when it is committed, also if its worker is gone by then and the task goes back.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import structlog

from stepwell_server import telemetry
from stepwell_server.engine.change import Change
from stepwell_server.model.jobs import JOB_ORDINAL, Job
from stepwell_server.model.steps import Kind
from stepwell_server.model.tasks import JobGrant, Taken
from stepwell_server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from stepwell_server.engine.committer.protocols import AnyChange
    from stepwell_server.engine.job_change import JobChange
    from stepwell_server.model.jobs import ClosedJob
    from stepwell_server.model.runs import ClosedRun, Run
    from stepwell_server.model.steps import ClosedStep, Step
    from stepwell_server.model.tasks import AnyGrant, Renewal

_log, _logger = structlog.get_logger("stepwell.runs"), logging.getLogger("stepwell.runs")
PUSHED, CLAIMED = "pushed", "claimed"
RECORDED, LOST = "recorded", "lost"


class Traces:
    """A Listener of the committers."""

    def committed(self, committer: int, position: int, changes: Sequence[AnyChange]) -> None:
        """Records what a batch did."""
        del committer, position
        is_told = _logger.isEnabledFor(logging.DEBUG)
        for change in changes:
            news = change.news
            if is_told:
                _tell(change) if isinstance(change, Change) else _tell_of_job(change)
            for claim in news.claims:
                _claimed(claim, change.now)
            for renewal in news.renewals:
                _renewed(renewal)
            for revoke in news.revokes:
                metrics.count_lost_lease(revoke[3])
            if news.follows and isinstance(change, Change) and change.run is not None:
                run = change.run
                telemetry.start_span(run.traceparent, news.follows, type=run.type, run=str(run.run_id))

    def unsettled(self) -> None:
        """Nothing is known of it."""


def _tell(change: Change) -> None:
    """Logs what became of a run, for who follows one closely."""
    run = change.run or change.closed_run
    if run is None:
        return
    with telemetry.about(run.run_id, run.traceparent):
        if change.fresh:
            _log.debug("run started", type=run.type, queue=run.task_queue)
        for claim in change.news.claims:
            _log.debug("task claimed", step=claim.step_name, worker=_holder(claim))
        for _, ordinal, token, reason in change.news.revokes:
            _log.debug("lease lost", ordinal=ordinal, token=token, reason=reason)
        if change.run is None and (change.fresh or change.original is not None):
            _log.debug("run ended", phase=change.phase.name)


def _tell_of_job(change: JobChange) -> None:
    """Logs what became of a job."""
    with telemetry.about_job(change.job_id, change.traceparent):
        if change.fresh and isinstance(change.original, Job):
            _log.debug("job started", type=change.original.type, queue=change.original.task_queue)
        for claim in change.news.claims:
            _log.debug("task claimed", step="", worker=_holder(claim))
        for _, ordinal, token, reason in change.news.revokes:
            _log.debug("lease lost", ordinal=ordinal, token=token, reason=reason)
        if not change.is_open and change.has_changed:
            _log.debug("job ended", state=change.phase.name)


def _holder(claim: AnyGrant | Taken) -> str:
    return claim.owner_id if isinstance(claim, Taken) else (claim.activity or claim.origin).owner_id


def subject_of_job(job: Job | ClosedJob, number: int) -> telemetry.Subject:
    """What spans say of a job, and under which claim."""
    return telemetry.Subject(
        job.traceparent,
        job.tracestate,
        job.job_id,
        job.job_key,
        JOB_ORDINAL,
        number,
        "",
        job.task_queue,
        job.attempt,
        is_job=True,
    )


def subject(run: Run | ClosedRun, step: Step | ClosedStep | None, number: int) -> telemetry.Subject:
    """What spans say of a run or a step, and under which claim."""
    return telemetry.Subject(
        run.traceparent,
        run.tracestate,
        run.run_id,
        run.run_key,
        step.ordinal if step is not None else 0,
        number,
        step.name if step is not None else "",
        (step.task_queue if step is not None else "") or run.task_queue,
        step.attempt if step is not None else number,
    )


def issued(token: int, grants: int) -> int:
    """A token that a caller named, if it was ever given out; else 0."""
    return token if token <= grants else 0


def _claimed(claim: AnyGrant | Taken, now: datetime) -> None:
    if isinstance(claim, Taken):
        kind = "run" if claim.step is None else "activity" if claim.step.kind == Kind.ACTIVITY else "step"
        origin: Run | Job = claim.run
    else:
        kind = "job" if isinstance(claim, JobGrant) else "run" if claim.step is None else "activity"
        origin = claim.origin
    is_pushed = claim.ready_time is None and not isinstance(claim, Taken)
    metrics.count_claim(kind)
    if claim.ready_time is not None:
        metrics.observe_wait(kind, (now - claim.ready_time).total_seconds())
    elif is_pushed:
        metrics.observe_wait(kind, 0.0)
    if telemetry.is_recorded(origin.traceparent):
        outcome = PUSHED if is_pushed else CLAIMED
        telemetry.claim_span(_subject_of(claim), worker=_holder(claim), outcome=outcome)


def _subject_of(claim: AnyGrant | Taken) -> telemetry.Subject:
    if isinstance(claim, JobGrant):
        return subject_of_job(claim.job, claim.token)
    return subject(claim.run, claim.step, claim.number if isinstance(claim, Taken) else claim.token)


def _renewed(renewal: Renewal) -> None:
    outcome = RECORDED if renewal.renewed else LOST
    metrics.count_heartbeats("run", outcome)
    if telemetry.is_recorded(renewal.run.traceparent):
        about = subject(renewal.run, None, issued(renewal.number, renewal.run.grants))
        telemetry.heartbeat_span(about, worker=renewal.owner_id, outcome=outcome, start_ns=time.time_ns())
