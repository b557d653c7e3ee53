"""Heartbeats as spans and numbers: one for each that was received, also of those that were merged before the write.

The spans are made after the write, when it is known what came of it, and tell what the database says of their runs.
What came while the database was away is kept until it can be asked, as many as an exporter would keep.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from msgspec.structs import replace

from stepwell_server import telemetry
from stepwell_server.dispatch.traces import LOST, RECORDED, issued, subject, subject_of_job
from stepwell_server.model.jobs import JOB_ORDINAL, ClosedJob, Job
from stepwell_server.model.runs import ClosedRun, Run
from stepwell_server.store import activity_store, batch_reads, job_batches, recall
from stepwell_server.store.faults import Lost
from stepwell_server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stepwell_server.dispatch.beats import Holder, TaskBeat
    from stepwell_server.model.steps import ClosedStep, Step
    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database

HEARD, FAILED = "heard", "failed"
_WORKERS = UUID("0a52e9ee-94b0-5f0e-9d0b-2f5a0b5b1f63")
_MOST = 32_768
Grants = tuple[telemetry.Subject, int]


def hear(session_id: UUID, worker_id: str, outcome: str = HEARD) -> None:
    """Records a beat that is about no task. That of a stream is written later, with those of other sessions."""
    metrics.count_heartbeats("session", outcome)
    telemetry.session_heartbeat_span(session_id, worker=worker_id, outcome=outcome)


def hear_worker(namespace: str, worker_id: str, *, known: bool) -> None:
    """Records a beat of an outside engine's worker, which has no session: its trace follows from its name."""
    outcome = RECORDED if known else LOST
    metrics.count_heartbeats("worker", outcome)
    # Neither may hold NUL, so no two pairs read alike.
    session_id = uuid5(_WORKERS, f"{namespace}\0{worker_id}")
    telemetry.session_heartbeat_span(session_id, worker=worker_id, outcome=outcome)


async def hear_driven(
    database: Database, namespace_id: int | None, run_key: int, ordinal: int, token: int, *, recorded: bool
) -> None:
    """Records a beat of a driven run's activity; token 0 is that of whoever has it."""
    outcome, start_ns = RECORDED if recorded else LOST, time.time_ns()
    metrics.count_heartbeats("activity", outcome)
    if not telemetry.is_exporting():
        return
    found = await activity_store.claimed(database, namespace_id, run_key, ordinal)
    if found is None or not telemetry.is_recorded(found.about.traceparent):
        return
    about, is_latest = found.about, token in (0, found.about.number)
    if not is_latest:
        about = replace(about, number=issued(token, about.number), attempt=0)
    worker = found.owner_id if recorded and is_latest else ""
    telemetry.heartbeat_span(about, worker=worker, outcome=outcome, start_ns=start_ns)


class BeatTraces:
    """See the module."""

    def __init__(self) -> None:
        self._received: list[TaskBeat] = []
        self._told: list[tuple[TaskBeat, str, int]] = []

    def receive(self, beat: TaskBeat) -> None:
        """Notes a beat that came, without what it says."""
        if len(self._received) < _MOST:
            self._received.append(replace(beat, details=None) if beat.details is not None else beat)
        else:
            metrics.count_heartbeats(_kind(beat), FAILED)

    def take(self) -> list[TaskBeat]:
        """The beats that came since the last time: what is written now is written of these."""
        taken, self._received = self._received, []
        return taken

    def tell(self, beats: Iterable[TaskBeat], written: Mapping[Holder, int] | None) -> None:
        """Notes what came of beats: whose were written, in which attempt; None, if the database did not take them."""
        told = [_came_of(beat, written) for beat in beats]
        for (kind, outcome), count in Counter((_kind(beat), outcome) for beat, outcome, _ in told).items():
            metrics.count_heartbeats(kind, outcome, count)
        if telemetry.is_exporting():
            self._told += told[: _MOST - len(self._told)]

    async def record(self, connection: Connection) -> None:
        """Makes the spans of all of which it is known what came of them."""
        told, self._told = self._told, []
        if not told:
            return
        keys = sorted({(beat.run_key, beat.ordinal) for beat, _, _ in told if beat.ordinal != JOB_ORDINAL})
        job_keys = sorted({beat.run_key for beat, _, _ in told if beat.ordinal == JOB_ORDINAL})
        try:
            found = await batch_reads.read_steps(connection, keys) if keys else []
            steps = {(step.run_key, step.ordinal): step for step in found}
            runs = await _runs(connection, sorted({key[0] for key in keys})) if keys else {}
            jobs = await _jobs(connection, job_keys) if job_keys else {}
        except Lost:
            self._told = told
            raise
        for beat, outcome, attempt in told:
            if beat.ordinal == JOB_ORDINAL:
                about = _about_job(beat, jobs.get(beat.run_key))
            else:
                about = _about(beat, runs.get(beat.run_key), steps.get((beat.run_key, beat.ordinal)))
            _record(beat, outcome, attempt, about)


def _kind(beat: TaskBeat) -> str:
    return "job" if beat.ordinal == JOB_ORDINAL else "activity"


async def _runs(connection: Connection, keys: list[int]) -> dict[int, Run | ClosedRun]:
    found: dict[int, Run | ClosedRun] = {**await recall.read_runs(connection, keys)}
    ended = [key for key in keys if key not in found]
    if ended:
        found |= {run.run_key: run for run in await batch_reads.read_closed_runs(connection, ended)}
    return found


async def _jobs(connection: Connection, keys: list[int]) -> dict[int, Job | ClosedJob]:
    found: dict[int, Job | ClosedJob] = {**await job_batches.read_jobs(connection, keys)}
    ended = [key for key in keys if key not in found]
    if ended:
        found |= {job.job_key: job for job in await job_batches.read_closed_jobs(connection, ended)}
    return found


def _came_of(beat: TaskBeat, written: Mapping[Holder, int] | None) -> tuple[TaskBeat, str, int]:
    """A beat with its outcome and, if that is known, its attempt."""
    if written is None:
        return beat, FAILED, 0
    attempt = written.get(beat.holder)
    return (beat, LOST, 0) if attempt is None else (beat, RECORDED, attempt)


def _about(beat: TaskBeat, run: Run | ClosedRun | None, step: Step | ClosedStep | None) -> Grants | None:
    """What a beat is about, and how often that was granted. None of another namespace is its affair."""
    if run is None or run.namespace_id != beat.namespace_id:
        return None
    grants = step.grants if step is not None else run.grants
    return subject(run, step, issued(beat.token, grants)), grants


def _about_job(beat: TaskBeat, job: Job | ClosedJob | None) -> Grants | None:
    if job is None or job.namespace_id != beat.namespace_id:
        return None
    return subject_of_job(job, issued(beat.token, job.grants)), job.grants


def _record(beat: TaskBeat, outcome: str, attempt: int, found: Grants | None) -> None:
    """A beat that is about nothing is its session's affair.

    The activity may have gone on since: what it says of its attempt holds for its present token only.
    """
    if found is None:
        telemetry.session_heartbeat_span(
            beat.session_id, worker=beat.worker_id, outcome=outcome, start_ns=beat.received_ns
        )
        return
    about, grants = found
    if telemetry.is_recorded(about.traceparent):
        telemetry.heartbeat_span(
            replace(about, attempt=attempt or (about.attempt if beat.token == grants else 0)),
            worker=beat.worker_id,
            outcome=outcome,
            start_ns=beat.received_ns,
            reported=beat.traceparent,
        )
