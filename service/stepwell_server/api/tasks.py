"""What workers are told, from values to the protocol's words."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from stepwell.v1 import types_pb2, workers_pb2
from stepwell_server.api.interceptors.errors import to_status
from stepwell_server.api.payloads import failure_to_proto, fill_payload, fill_time
from stepwell_server.model.jobs import JOB_ORDINAL, Activity
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
    ref = workers_pb2.TaskRef()
    _fill_ref(ref, key, token)
    return ref


def _fill_ref(ref: workers_pb2.TaskRef, key: TaskKey, token: int) -> None:
    part = _JOB if key[1] == JOB_ORDINAL else key[1]
    ref.task_id, ref.token = f"{key[0]}.{part}", token


def bundle_to_proto(bundle: Bundle, namespace: str) -> workers_pb2.ConnectResponse:
    """One message of the stream. Its parts are filled where they stand."""
    message = workers_pb2.ConnectResponse()
    for cancel in bundle.cancels:
        _fill_notice(message.cancels.add(), cancel)
    for revoke in bundle.revokes:
        _fill_notice(message.revokes.add(), revoke)
    for answer in bundle.results:
        _fill_answer(message.results.add(), answer)
    for beat in bundle.beats:
        _fill_beat(message.heartbeats.add(), beat)
    for advance in bundle.advances:
        _fill_advance(message.advances.add(), advance)
    for assign in bundle.assigns:
        _fill_task(message.assigns.add(), assign, namespace)
    for question in bundle.questions:
        _fill_question(message.queries.add(), question)
    message.ping, message.pong = bundle.ping, bundle.pong
    if bundle.rotate_seconds is not None:
        message.rotate.within.FromTimedelta(timedelta(seconds=bundle.rotate_seconds))
    if bundle.expire_time is not None:
        fill_time(message.session_expire_time, bundle.expire_time)
    return message


def _fill_notice(message: workers_pb2.CancelTask | workers_pb2.RevokeTask, notice: TaskNotice) -> None:
    _fill_ref(message.ref, (notice.run_key, notice.ordinal), notice.token)
    message.reason = notice.reason


def assign_to_proto(assign: Assign, namespace: str) -> workers_pb2.Task:
    """A task."""
    task = workers_pb2.Task()
    _fill_task(task, assign, namespace)
    return task


def _fill_task(task: workers_pb2.Task, assign: Assign, namespace: str) -> None:
    grant = assign.grant
    _fill_ref(task.ref, assign.key, assign.token)
    task.namespace, task.traceparent, task.tracestate = namespace, assign.traceparent, grant.origin.tracestate
    fill_payload(task.input, assign.payload)
    if isinstance(grant, JobGrant):
        task.job_id = str(grant.job.job_id)
        _describe_activity(task, grant.job, assign.heartbeat)
        return
    run = grant.run
    task.run_id, task.workflow_id = str(run.run_id), run.workflow_id
    if run.cancel_time is not None:
        task.cancel_requested, task.cancel_reason = True, run.cancel_reason or ""
    fill_time(task.run_create_time, run.create_time)
    if grant.step is not None:
        task.step_name, task.step_ordinal = grant.step.name, grant.step.ordinal
        _describe_activity(task, grant.step, assign.heartbeat)
        return
    task.kind = workers_pb2.TASK_KIND_RUN
    task.type, task.task_queue, task.attempt = run.type, run.task_queue, run.grants
    task.run_attempt = unpack_details(run.details).attempt
    for recorded in assign.steps:
        _fill_record(task.steps.add(), recorded.step, recorded.payload, recorded.failure)
    task.more_steps = assign.more_steps
    for update in assign.updates:
        _fill_update(task.updates.add(), update)


def _describe_activity(task: workers_pb2.Task, step: Activity, heartbeat: Payload | None) -> None:
    task.kind = workers_pb2.TASK_KIND_ACTIVITY
    task.type, task.task_queue, task.attempt = step.type, step.task_queue, step.attempt
    fill_time(task.schedule_time, step.schedule_time)
    if heartbeat is not None:
        fill_payload(task.heartbeat_details, heartbeat)
    limits = unpack_step_details(step.details).timeouts or NO_TIMEOUTS
    if limits.heartbeat is not None:
        task.heartbeat_timeout.FromTimedelta(timedelta(seconds=limits.heartbeat))
    if limits.start_to_close is not None and step.start_time is not None:
        fill_time(task.attempt_deadline, step.start_time + timedelta(seconds=limits.start_to_close))


def records_to_proto(steps: Sequence[RecordedStep]) -> list[workers_pb2.StepRecord]:
    """Recorded steps."""
    return [_record(each) for each in steps]


def ended_to_proto(steps: Sequence[EndedStep]) -> list[workers_pb2.StepRecord]:
    """Steps that have ended."""
    return [_record(each) for each in steps]


def _record(told: RecordedStep | EndedStep) -> workers_pb2.StepRecord:
    record = workers_pb2.StepRecord()
    _fill_record(record, told.step, told.payload, told.failure)
    return record


def _fill_record(
    record: workers_pb2.StepRecord, step: Step | ClosedStep, payload: Payload | None, failure: Failure | None
) -> None:
    record.ordinal, record.scope, record.name = step.ordinal, step.scope, step.name
    record.occurrence, record.key = step.occurrence, step.key
    record.kind, record.state = types_pb2.StepKind.ValueType(step.kind), types_pb2.StepState.ValueType(step.state)
    if payload is not None:
        fill_payload(record.result, payload)
    if failure is not None:
        record.failure.CopyFrom(failure_to_proto(failure) or types_pb2.Failure())
    if isinstance(step, ClosedStep):
        record.completion, record.timed_out = step.end_event, step.timed_out
    elif step.wake_time is not None:
        fill_time(record.wake_time, step.wake_time)
    if step.kind == Kind.CHILD:
        record.child_run_id = unpack_step_details(step.details).child_run_id
    elif step.scope == UPDATES:
        details = unpack_step_details(step.details)
        record.update_name, record.place = details.update_name, details.place
    elif step.kind == Kind.MARKER and step.name == WINNER:
        record.winner = unpack_step_details(step.details).winner


def _fill_advance(message: workers_pb2.Advance, advance: AdvanceRun) -> None:
    _fill_ref(message.ref, (advance.run_key, 0), advance.token)
    for ended in advance.ended:
        _fill_record(message.steps.add(), ended.step, ended.payload, ended.failure)
    message.cancel_requested, message.cancel_reason = advance.cancel_requested, advance.cancel_reason
    for update in advance.updates:
        _fill_update(message.updates.add(), update)


def _fill_update(message: workers_pb2.Update, call: RunCall) -> None:
    message.update_id, message.name = call.update_id, call.name
    fill_payload(message.input, call.input)


def _fill_question(message: workers_pb2.Query, question: Question) -> None:
    message.correlation, message.name = question.correlation, question.name
    _fill_ref(message.ref, (question.run_key, 0), question.token)
    fill_payload(message.input, question.input)


def answer_to_proto(answer: ReportAnswer) -> workers_pb2.ReportResult:
    """What became of a report."""
    result = workers_pb2.ReportResult()
    _fill_answer(result, answer)
    return result


def _fill_answer(result: workers_pb2.ReportResult, answer: ReportAnswer) -> None:
    result.correlation = answer.correlation
    if answer.refusal is not None:
        result.status = _REFUSED
        result.error.CopyFrom(to_status(answer.refusal))
        result.remedy = workers_pb2.ReportResult.Remedy.ValueType(answer.remedy)
        if answer.repeat_seconds:
            result.repeat_delay.FromNanoseconds(int(answer.repeat_seconds * 1_000_000_000))
        return
    result.status = _DUPLICATE if answer.duplicate else _ACCEPTED
    if answer.ordinals:
        result.ordinals.extend(answer.ordinals)
    for ended in answer.ended:
        _fill_record(result.steps.add(), ended.step, ended.payload, ended.failure)


def _fill_beat(message: workers_pb2.TaskHeartbeatResult, answer: BeatAnswer) -> None:
    _fill_ref(message.ref, (answer.run_key, answer.ordinal), answer.token)
    message.cancel_requested, message.lost = answer.cancel_requested, answer.lost


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
    fill_time(worker.register_time, session.register_time)
    fill_time(worker.expire_time, session.expire_time)
    return worker
