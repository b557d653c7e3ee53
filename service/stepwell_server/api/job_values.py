"""Jobs between the wire and the layers below."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING

from stepwell.v1 import jobs_pb2, types_pb2
from stepwell_server import telemetry
from stepwell_server.api.activity_options import (
    priority_from_proto,
    retry_from_proto,
    retry_to_proto,
    timeouts_from_proto,
)
from stepwell_server.api.fields import fairness_key, optional_uuid, seconds
from stepwell_server.api.payloads import duration_to_proto, failure_to_proto, payload_from_proto, payload_to_proto
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.api.task_waits import task_wait_to_proto
from stepwell_server.engine.jobs import NewJob, StartJob
from stepwell_server.engine.starts import Conflict, Reuse
from stepwell_server.ids import job_id_for_request
from stepwell_server.model.steps import NO_TIMEOUTS, StepDetails, StepState, unpack_step_details
from stepwell_server.model.tasks import TaskKind
from stepwell_server.store.jobs import JobFilter

if TYPE_CHECKING:
    from stepwell_server.api.fields import Fields
    from stepwell_server.model.workers import Crew
    from stepwell_server.store.job_ends import JobEnd
    from stepwell_server.store.jobs import SeenJob, WholeJob

Metadata = Iterable[tuple[str, str | bytes]]
DEFAULT_QUEUE, DEFAULT_PRIORITY = "default", 4


class JobReader:
    """Reads starts of jobs for one call: they share its namespace and its trace context."""

    def __init__(
        self, namespace_id: int, namespace: str, metadata: Metadata, fields: Fields, retention_seconds: float
    ) -> None:
        self.namespace_id = namespace_id
        self._namespace = namespace
        self._metadata = tuple(metadata)
        self._fields = fields
        self._retention_seconds = retention_seconds

    def read(self, request: jobs_pb2.StartJobRequest, at: str = "") -> StartJob:
        """Reads a start. One with a request id has an id that follows from it, and a hash of all else that it says."""
        fields = self._fields
        request_id = fields.text(request.request_id, "request_id", at)
        job_id = optional_uuid(request.job_id, "job_id", at)
        if job_id is None and request_id:
            job_id = job_id_for_request(self._namespace, request_id)
        activity_type = fields.name(request.type, "type", at)
        retention = seconds(request, "retention", at)
        priority = priority_from_proto(request, at)
        details = StepDetails(
            retry=retry_from_proto(request.retry, fields, f"{at}retry.") if request.HasField("retry") else None,
            timeouts=timeouts_from_proto(request, at),
            fairness_key=fairness_key(request.fairness_key, fields, at),
        )
        reuse = fields.member(request.reuse_policy, jobs_pb2.JobReusePolicy, "reuse_policy", at)
        conflict = fields.member(request.conflict_policy, jobs_pb2.JobConflictPolicy, "conflict_policy", at)
        traceparent, tracestate = telemetry.new_traceparent(self._metadata, type=activity_type)
        new = NewJob(
            namespace_id=self.namespace_id,
            namespace=self._namespace,
            type=activity_type,
            task_queue=fields.text(request.task_queue, "task_queue", at) or DEFAULT_QUEUE,
            job_id=job_id,
            unique_key=fields.text(request.unique_key, "unique_key", at),
            input=payload_from_proto(request.input, fields, "input", at),
            priority=DEFAULT_PRIORITY if priority is None else priority,
            correlation_id=fields.text(request.correlation_id, "correlation_id", at),
            traceparent=traceparent,
            tracestate=tracestate,
            delay_seconds=seconds(request, "start_delay", at) or None,
            retention_seconds=self._retention_seconds if retention is None else retention,
            details=details,
        )
        request_hash = self._content_hash(request) if request_id else None
        return StartJob(new, reuse or Reuse.ALLOW, conflict or Conflict.FAIL, request_id, request_hash)

    def _content_hash(self, request: jobs_pb2.StartJobRequest) -> bytes:
        """What a request says, but for its request id: the same whether it names its namespace, or the batch does."""
        content = jobs_pb2.StartJobRequest()
        content.CopyFrom(request)
        content.request_id = ""
        content.namespace = self._namespace
        return sha256(content.SerializeToString(deterministic=True)).digest()


def filter_from_proto(request: jobs_pb2.ListJobsRequest, namespace_id: int, fields: Fields) -> JobFilter:
    """Reads which jobs to list."""
    states = fields.items(request.states, "states")
    return JobFilter(
        namespace_id=namespace_id,
        states=tuple(fields.member(state, jobs_pb2.JobState, "states", required=True) for state in states),
        type=fields.text(request.type, "type"),
        task_queue=fields.text(request.task_queue, "task_queue"),
        unique_key=fields.text(request.unique_key, "unique_key"),
        correlation_id=fields.text(request.correlation_id, "correlation_id"),
    )


def job_to_proto(job: SeenJob, namespace: str) -> jobs_pb2.Job:
    """Renders a job without its payloads."""
    details = unpack_step_details(job.details)
    limits = details.timeouts or NO_TIMEOUTS
    return jobs_pb2.Job(
        namespace=namespace,
        job_id=str(job.job_id),
        unique_key=job.unique_key,
        type=job.type,
        task_queue=job.task_queue,
        state=jobs_pb2.JobState.ValueType(job.state),
        attempt=job.attempt,
        create_time=time_to_proto(job.create_time),
        schedule_time=time_to_proto(job.schedule_time),
        start_time=time_to_proto(job.start_time),
        end_time=time_to_proto(job.end_time),
        wake_time=time_to_proto(job.wake_time),
        expire_time=time_to_proto(job.expire_time),
        correlation_id=job.correlation_id,
        priority=job.priority,
        fairness_key=details.fairness_key or "",
        retry=retry_to_proto(details.retry),
        schedule_to_start_timeout=duration_to_proto(limits.schedule_to_start),
        schedule_to_close_timeout=duration_to_proto(limits.schedule_to_close),
        start_to_close_timeout=duration_to_proto(limits.start_to_close),
        heartbeat_timeout=duration_to_proto(limits.heartbeat),
        retention=duration_to_proto(job.retention_seconds),
        cancel_request=_cancel_request_to_proto(job),
        owner_id=job.owner_id,
        retry_count=job.retries,
        traceparent=job.traceparent,
    )


def whole_job_to_proto(whole: WholeJob, namespace: str, crew: Crew | None = None) -> jobs_pb2.Job:
    """Renders a job with its payloads; if its task waits, with what that waits for."""
    job = job_to_proto(whole.job, namespace)
    if crew is not None and whole.ready_time is not None:
        wait = task_wait_to_proto(TaskKind.ACTIVITY, job.type, job.task_queue, "", whole.ready_time, crew)
        job.task_wait.CopyFrom(wait)
    job.input.CopyFrom(payload_to_proto(whole.input) or types_pb2.Payload())
    if whole.result is not None and whole.job.state == StepState.COMPLETED:
        job.result.CopyFrom(payload_to_proto(whole.result) or types_pb2.Payload())
    last = unpack_step_details(whole.job.details).last_failure
    for field, failure in ((job.failure, whole.failure), (job.last_failure, last)):
        rendered = failure_to_proto(failure)
        if rendered is not None:
            field.CopyFrom(rendered)
    if whole.beat_time is not None:
        job.heartbeat_time.FromDatetime(whole.beat_time)
    if whole.heartbeat is not None:
        job.heartbeat_details.CopyFrom(payload_to_proto(whole.heartbeat) or types_pb2.Payload())
    return job


def end_to_proto(end: JobEnd) -> jobs_pb2.WatchJobsResponse.End:
    """Renders the end of a job."""
    is_done = end.state == StepState.COMPLETED
    return jobs_pb2.WatchJobsResponse.End(
        job_id=str(end.job_id),
        unique_key=end.unique_key,
        state=jobs_pb2.JobState.ValueType(end.state),
        result=payload_to_proto(end.result) if is_done else None,
        failure=failure_to_proto(end.failure),
        result_omitted=is_done and end.result is None,
    )


def _cancel_request_to_proto(job: SeenJob) -> jobs_pb2.Job.CancelRequest | None:
    if job.cancel_time is None:
        return None
    return jobs_pb2.Job.CancelRequest(reason=job.cancel_reason or "", time=time_to_proto(job.cancel_time))
