"""What workers are told, from values to the protocol's words."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from stepwell.v1 import types_pb2, workers_pb2
from stepwell_server.api.interceptors.errors import to_status
from stepwell_server.api.payloads import failure_to_proto, payload_to_proto
from stepwell_server.model.jobs import JOB_ORDINAL, Activity, Job
from stepwell_server.model.races import WINNER
from stepwell_server.model.run_calls import UPDATES
from stepwell_server.model.runs import unpack_details
from stepwell_server.model.steps import NO_TIMEOUTS, ClosedStep, EndedStep, Kind, Step, unpack_step_details
from stepwell_server.model.tasks import JobGrant
from stepwell_server.model.workers import unpack_hello

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_server.dispatch.messages import (
        AdvanceRun,
        Assign,
        BeatAnswer,
        Bundle,
        Question,
        RecordedStep,
        ReportAnswer,
        TaskNotice,
    )
    from stepwell_server.dispatch.sessions import TaskKey
    from stepwell_server.model.payloads import Failure, Payload
    from stepwell_server.model.run_calls import RunCall
    from stepwell_server.model.workers import Session

_JOB = "job"
_ACCEPTED = workers_pb2.ReportResult.STATUS_ACCEPTED
_DUPLICATE = workers_pb2.ReportResult.STATUS_DUPLICATE
_REFUSED = workers_pb2.ReportResult.STATUS_REFUSED


def task_ref(key: TaskKey, token: int) -> workers_pb2.TaskRef:
    """Names a task."""
    part = _JOB if key[1] == JOB_ORDINAL else str(key[1])
    return workers_pb2.TaskRef(task_id=f"{key[0]}.{part}", token=token)


def bundle_to_proto(bundle: Bundle, namespace: str) -> workers_pb2.ConnectResponse:
    """One message of the stream."""
    message = workers_pb2.ConnectResponse(
        cancels=[workers_pb2.CancelTask(ref=_notice_ref(each), reason=each.reason) for each in bundle.cancels],
        revokes=[workers_pb2.RevokeTask(ref=_notice_ref(each), reason=each.reason) for each in bundle.revokes],
        results=[answer_to_proto(each) for each in bundle.results],
        heartbeats=[beat_to_proto(each) for each in bundle.beats],
        advances=[_advance_to_proto(each) for each in bundle.advances],
        assigns=[assign_to_proto(each, namespace) for each in bundle.assigns],
        queries=[_question_to_proto(each) for each in bundle.questions],
        ping=bundle.ping,
        pong=bundle.pong,
    )
    if bundle.rotate_seconds is not None:
        message.rotate.within.FromTimedelta(timedelta(seconds=bundle.rotate_seconds))
    if bundle.expire_time is not None:
        message.session_expire_time.FromDatetime(bundle.expire_time)
    return message


def _notice_ref(notice: TaskNotice) -> workers_pb2.TaskRef:
    return task_ref((notice.run_key, notice.ordinal), notice.token)


def assign_to_proto(assign: Assign, namespace: str) -> workers_pb2.Task:
    """A task."""
    grant = assign.grant
    if isinstance(grant, JobGrant):
        return _job_to_proto(assign, grant.job, namespace)
    run = grant.run
    task = workers_pb2.Task(
        namespace=namespace,
        run_id=str(run.run_id),
        workflow_id=run.workflow_id,
        traceparent=assign.traceparent,
        tracestate=run.tracestate,
        input=payload_to_proto(assign.payload),
        cancel_requested=run.cancel_time is not None,
        cancel_reason=run.cancel_reason or "",
    )
    task.run_create_time.FromDatetime(run.create_time)
    task.ref.CopyFrom(task_ref(assign.key, assign.token))
    if grant.step is not None:
        task.step_name, task.step_ordinal = grant.step.name, grant.step.ordinal
        _describe_activity(task, grant.step, assign.heartbeat)
        return task
    task.kind = workers_pb2.TASK_KIND_RUN
    task.type, task.task_queue, task.attempt = run.type, run.task_queue, run.grants
    task.run_attempt = unpack_details(run.details).attempt
    task.steps.extend(records_to_proto(assign.steps))
    task.more_steps = assign.more_steps
    task.updates.extend(_update_to_proto(each) for each in assign.updates)
    return task


def _job_to_proto(assign: Assign, job: Job, namespace: str) -> workers_pb2.Task:
    task = workers_pb2.Task(
        ref=task_ref(assign.key, assign.token),
        namespace=namespace,
        job_id=str(job.job_id),
        traceparent=assign.traceparent,
        tracestate=job.tracestate,
        input=payload_to_proto(assign.payload),
    )
    _describe_activity(task, job, assign.heartbeat)
    return task


def _describe_activity(task: workers_pb2.Task, step: Activity, heartbeat: Payload | None) -> None:
    task.kind = workers_pb2.TASK_KIND_ACTIVITY
    task.type, task.task_queue, task.attempt = step.type, step.task_queue, step.attempt
    task.schedule_time.FromDatetime(step.schedule_time)
    if heartbeat is not None:
        task.heartbeat_details.CopyFrom(payload_to_proto(heartbeat) or types_pb2.Payload())
    limits = unpack_step_details(step.details).timeouts or NO_TIMEOUTS
    if limits.heartbeat is not None:
        task.heartbeat_timeout.FromTimedelta(timedelta(seconds=limits.heartbeat))
    if limits.start_to_close is not None and step.start_time is not None:
        task.attempt_deadline.FromDatetime(step.start_time + timedelta(seconds=limits.start_to_close))


def records_to_proto(steps: Sequence[RecordedStep]) -> list[workers_pb2.StepRecord]:
    """Recorded steps."""
    return [_record(each.step, each.payload, each.failure) for each in steps]


def ended_to_proto(steps: Sequence[EndedStep]) -> list[workers_pb2.StepRecord]:
    """Steps that have ended."""
    return [_record(each.step, each.payload, each.failure) for each in steps]


def _record(step: Step | ClosedStep, payload: Payload | None, failure: Failure | None) -> workers_pb2.StepRecord:
    record = workers_pb2.StepRecord(
        ordinal=step.ordinal,
        scope=step.scope,
        name=step.name,
        occurrence=step.occurrence,
        key=step.key,
        kind=types_pb2.StepKind.ValueType(step.kind),
        state=types_pb2.StepState.ValueType(step.state),
        result=payload_to_proto(payload),
        failure=failure_to_proto(failure),
    )
    if isinstance(step, ClosedStep):
        record.completion = step.end_event
        record.timed_out = step.timed_out
    elif step.wake_time is not None:
        record.wake_time.FromDatetime(step.wake_time)
    if step.kind == Kind.CHILD:
        record.child_run_id = unpack_step_details(step.details).child_run_id
    elif step.scope == UPDATES:
        details = unpack_step_details(step.details)
        record.update_name, record.place = details.update_name, details.place
    elif step.kind == Kind.MARKER and step.name == WINNER:
        record.winner = unpack_step_details(step.details).winner
    return record


def _advance_to_proto(advance: AdvanceRun) -> workers_pb2.Advance:
    return workers_pb2.Advance(
        ref=task_ref((advance.run_key, 0), advance.token),
        steps=ended_to_proto(advance.ended),
        cancel_requested=advance.cancel_requested,
        cancel_reason=advance.cancel_reason,
        updates=[_update_to_proto(each) for each in advance.updates],
    )


def _update_to_proto(call: RunCall) -> workers_pb2.Update:
    return workers_pb2.Update(update_id=call.update_id, name=call.name, input=payload_to_proto(call.input))


def _question_to_proto(question: Question) -> workers_pb2.Query:
    return workers_pb2.Query(
        correlation=question.correlation,
        ref=task_ref((question.run_key, 0), question.token),
        name=question.name,
        input=payload_to_proto(question.input),
    )


def answer_to_proto(answer: ReportAnswer) -> workers_pb2.ReportResult:
    """What became of a report."""
    if answer.refusal is not None:
        return workers_pb2.ReportResult(
            correlation=answer.correlation, status=_REFUSED, error=to_status(answer.refusal)
        )
    return workers_pb2.ReportResult(
        correlation=answer.correlation,
        status=_DUPLICATE if answer.duplicate else _ACCEPTED,
        ordinals=answer.ordinals,
        steps=ended_to_proto(answer.ended),
    )


def worker_to_proto(session: Session) -> workers_pb2.Worker:
    """A live worker."""
    hello = unpack_hello(session.hello)
    worker = workers_pb2.Worker(
        worker_id=session.worker_id,
        session_id=str(session.session_id),
        task_queues=hello.task_queues,
        workflow_types=hello.workflow_types,
        activity_types=hello.activity_types,
        build_id=hello.build_id,
        identity=hello.identity,
        sdk=hello.sdk,
        compatible_build_ids=hello.compatible_build_ids,
    )
    worker.register_time.FromDatetime(session.register_time)
    worker.expire_time.FromDatetime(session.expire_time)
    return worker


def beat_to_proto(answer: BeatAnswer) -> workers_pb2.TaskHeartbeatResult:
    """What became of a heartbeat."""
    return workers_pb2.TaskHeartbeatResult(
        ref=task_ref((answer.run_key, answer.ordinal), answer.token),
        cancel_requested=answer.cancel_requested,
        lost=answer.lost,
    )
