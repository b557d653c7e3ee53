"""Recording the steps that a run's code made."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from stepwell_server import refusals
from stepwell_server.engine import grants, search_attributes, starts, topic_waits
from stepwell_server.engine.activities import NewActivity
from stepwell_server.engine.change import Change
from stepwell_server.engine.reported import (
    AcceptedUpdate,
    Checkpoint,
    NewChild,
    NewStep,
    NewTimer,
    NewTopicWait,
    NewUserTask,
    NewWait,
    SetAttributes,
    UpdateOutcome,
    WonRace,
)
from stepwell_server.engine.user_tasks import new_task
from stepwell_server.ids import uuid7
from stepwell_server.model.events import TOPIC_NAME, EventType
from stepwell_server.model.payloads import JSON, Failure, Payload
from stepwell_server.model.runs import RunDetails, unpack_details
from stepwell_server.model.steps import (
    NO_STEP_DETAILS,
    ClosedStep,
    Kind,
    Step,
    StepDetails,
    StepState,
    pack_step_details,
)
from stepwell_server.model.tasks import TaskKind
from stepwell_server.model.topics import TopicWait, kept_name
from stepwell_server.model.user_tasks import UserTask


def record(change: Change, new: NewStep) -> int:
    """Records a step and answers its ordinal."""
    change.need_room()
    body = new.body
    if isinstance(body, Checkpoint):
        return _record_checkpoint(change, new, body)
    if isinstance(body, NewActivity):
        return _schedule(change, new, body)
    if isinstance(body, NewTimer):
        change.event(EventType.TIMER_STARTED, ordinal=change.open.last_step + 1)
        return _open(change, new, wake_time=change.now + timedelta(seconds=body.seconds)).ordinal
    if isinstance(body, NewWait):
        return _record_wait(change, new, body)
    if isinstance(body, NewTopicWait):
        return _record_topic_wait(change, new, body)
    if isinstance(body, NewUserTask):
        return _record_user_task(change, new, body)
    if isinstance(body, AcceptedUpdate):
        return _record_acceptance(change, new, body)
    if isinstance(body, UpdateOutcome):
        return _record_outcome(change, new, body)
    if isinstance(body, WonRace):
        return _record_winner(change, new, body)
    if isinstance(body, SetAttributes):
        return _record_attributes(change, new, body)
    return _start_child(change, new, body)


def _open(
    change: Change,
    new: NewStep,
    *,
    state: StepState = StepState.WAITING,
    wake_time: datetime | None = None,
    wait_name: str | None = None,
    type_name: str = "",
    task_queue: str = "",
    priority: int = 4,
    input_event: int = 0,
    child_key: int | None = None,
    details: StepDetails = NO_STEP_DETAILS,
) -> Step:
    step = Step(
        run_key=change.run_key,
        ordinal=change.open.last_step + 1,
        scope=new.scope,
        name=new.name,
        occurrence=new.occurrence,
        key=new.key,
        kind=new.kind,
        type=type_name,
        task_queue=task_queue,
        priority=priority,
        wait_name=wait_name,
        seq=0,
        child_key=child_key,
        create_time=change.now,
        input_event=input_event,
        state=state,
        attempt=0,
        grants=0,
        session_id=None,
        returns=0,
        owner_id="",
        start_time=None,
        wake_time=wake_time,
        cancel_requested=False,
        details=_packed(new, details),
    )
    change.add_step(step)
    return step


def _packed(new: NewStep, details: StepDetails = NO_STEP_DETAILS) -> bytes | None:
    """Details as a column, with the fingerprint, which a mended record is hashed with again."""
    if new.fingerprint:
        details = msgspec.structs.replace(details, fingerprint=new.fingerprint)
    return None if details == NO_STEP_DETAILS else pack_step_details(details)


def _record_checkpoint(change: Change, new: NewStep, body: Checkpoint) -> int:
    ordinal = change.open.last_step + 1
    kind = EventType.STEP_FAILED if body.failure is not None else EventType.STEP_COMPLETED
    if new.kind == Kind.MARKER:
        kind = EventType.MARKER_RECORDED
    event = change.event(kind, ordinal=ordinal, payload=body.payload, failure=body.failure)
    return _end_at_once(change, new, event, is_failed=body.failure is not None)


def _record_acceptance(change: Change, new: NewStep, body: AcceptedUpdate) -> int:
    facts = {"update": body.name, "update_id": new.key}
    event = change.event(EventType.UPDATE_ACCEPTED, ordinal=change.open.last_step + 1, payload=body.input, facts=facts)
    change.news.update(new.key)
    return _end_at_once(change, new, event, details=StepDetails(update_name=body.name, place=body.place))


def _record_outcome(change: Change, new: NewStep, body: UpdateOutcome) -> int:
    kind = EventType.UPDATE_COMPLETED if body.failure is None else EventType.UPDATE_FAILED
    ordinal = change.open.last_step + 1
    facts = {"update_id": new.key}
    event = change.event(kind, ordinal=ordinal, payload=body.payload, failure=body.failure, facts=facts)
    change.news.update(new.key)
    return _end_at_once(change, new, event, is_failed=body.failure is not None)


def _record_winner(change: Change, new: NewStep, body: WonRace) -> int:
    facts = {"race": new.key, "winner": str(body.winner)}
    payload = Payload(JSON, str(body.winner).encode())
    event = change.event(EventType.MARKER_RECORDED, ordinal=change.open.last_step + 1, payload=payload, facts=facts)
    return _end_at_once(change, new, event, details=StepDetails(winner=body.winner))


def _record_attributes(change: Change, new: NewStep, body: SetAttributes) -> int:
    """Sets search attributes. More than a run may have fails the step and not the run, which goes on without them."""
    before = dict(change.every_search_attribute())
    merged = search_attributes.merge(before, body.patch, keeps_absent=False)
    refusal = search_attributes.excess(merged, change.limits)
    failure = None if refusal is None else Failure(str(refusal), refusal.reason, non_retryable=True)
    if failure is None:
        search_attributes.put(change, before, merged)
    ordinal = change.open.last_step + 1
    payload = search_attributes.payload_of(body.patch)
    event = change.event(EventType.SEARCH_ATTRIBUTES_SET, ordinal=ordinal, payload=payload, failure=failure)
    return _end_at_once(change, new, event, is_failed=failure is not None)


def _end_at_once(
    change: Change, new: NewStep, event: int, *, is_failed: bool = False, details: StepDetails = NO_STEP_DETAILS
) -> int:
    """Adds a step that is over as it is recorded, and answers its ordinal."""
    run, now = change.open, change.now
    ordinal = run.last_step + 1
    change.add_ended_step(
        ClosedStep(
            run_key=run.run_key,
            ordinal=ordinal,
            scope=new.scope,
            name=new.name,
            occurrence=new.occurrence,
            key=new.key,
            kind=new.kind,
            type="",
            task_queue="",
            priority=run.priority,
            wait_name=None,
            seq=0,
            child_key=None,
            create_time=now,
            input_event=0,
            state=StepState.FAILED if is_failed else StepState.COMPLETED,
            attempt=1,
            grants=run.grants,
            start_time=now,
            end_time=now,
            end_event=event,
            timed_out=False,
            details=_packed(new, details),
        )
    )
    return ordinal


def _schedule(change: Change, new: NewStep, body: NewActivity) -> int:
    run = change.open
    queue = body.task_queue or run.task_queue
    priority = run.priority if body.priority is None else body.priority
    ordinal = run.last_step + 1
    event = change.event(EventType.ACTIVITY_SCHEDULED, ordinal=ordinal, payload=body.input)
    step = _open(
        change,
        new,
        state=StepState.PENDING,
        type_name=body.type,
        task_queue=queue,
        priority=priority,
        input_event=event,
        details=StepDetails(retry=body.retry, timeouts=body.timeouts, shielded=body.shielded),
    )
    if body.timeouts is not None:
        change.put_step(msgspec.structs.replace(step, wake_time=grants.next_timeout(step)))
    change.enqueue(ordinal, TaskKind.ACTIVITY, queue, body.type, priority)
    return ordinal


def _record_wait(change: Change, new: NewStep, body: NewWait) -> int:
    """A wait. A signal that came before it ends it at once."""
    pending = change.pending_signals(body.signal)
    wake_time = None if body.timeout_seconds is None else change.now + timedelta(seconds=body.timeout_seconds)
    ordinal = change.open.last_step + 1
    change.event(EventType.WAIT_STARTED, ordinal=ordinal, facts={"signal": body.signal})
    signal = pending[0] if pending else None
    step = _open(
        change,
        new,
        wait_name=body.signal,
        wake_time=wake_time,
        input_event=signal.event if signal is not None else 0,
    )
    if signal is not None:
        change.take_signal(signal)
        event = change.event(EventType.WAIT_COMPLETED, ordinal=ordinal, facts={"signal_event": str(signal.event)})
        change.end_step(step, StepState.COMPLETED, event, payload=None)
    return ordinal


def _record_topic_wait(change: Change, new: NewStep, body: NewTopicWait) -> int:
    """A wait for an event. One that is kept for this run, or for all waits, ends it at once."""
    pending = change.pending_signals(kept_name(body.topic))
    after, kept = change.topic(body.topic)
    wake_time = None if body.timeout_seconds is None else change.now + timedelta(seconds=body.timeout_seconds)
    ordinal = change.open.last_step + 1
    change.event(EventType.WAIT_STARTED, ordinal=ordinal, facts={TOPIC_NAME: body.topic})
    step = _open(
        change,
        new,
        wait_name=body.topic,
        wake_time=wake_time,
        input_event=pending[0].event if pending else 0,
        details=StepDetails(after_number=after),
    )
    if pending:
        change.take_signal(pending[0])
        event = change.event(EventType.WAIT_COMPLETED, ordinal=ordinal, facts={"received_event": str(pending[0].event)})
        change.end_step(step, StepState.COMPLETED, event, payload=None)
    elif kept is not None:
        topic_waits.take(change, step, body.topic, kept)
    else:
        wait = TopicWait(change.run_key, ordinal, change.namespace_id, body.topic, after)
        change.put_side((TopicWait, ordinal), wait)
    return ordinal


def _record_user_task(change: Change, new: NewStep, body: NewUserTask) -> int:
    """A task for a person, which its own timeout ends, or whoever completes it."""
    ordinal, task_id = change.open.last_step + 1, uuid7()
    facts = {"task_id": str(task_id)}
    event = change.event(EventType.USER_TASK_CREATED, ordinal=ordinal, payload=body.input, facts=facts)
    spec = body.spec
    if body.due_seconds is not None:
        spec = msgspec.structs.replace(spec, due_time=change.now + timedelta(seconds=body.due_seconds))
    step = _open(
        change,
        new,
        wake_time=None if body.timeout_seconds is None else change.now + timedelta(seconds=body.timeout_seconds),
        input_event=event,
        details=StepDetails(user_task_id=str(task_id)),
    )
    change.put_side((UserTask, ordinal), new_task(change, step, task_id, spec))
    return ordinal


def _start_child(change: Change, new: NewStep, body: NewChild) -> int:
    """A child. One whose workflow id is in use fails its step, which the code hears of."""
    run = change.open
    births = change.births
    if births is None:
        raise AssertionError("a batch can bear runs")
    ordinal = run.last_step + 1
    start = starts.StartRun(
        starts.NewRun(
            namespace_id=run.namespace_id,
            namespace=change.namespace,
            type=body.type,
            task_queue=body.task_queue or run.task_queue,
            workflow_id=body.workflow_id,
            input=body.input,
            priority=run.priority,
            correlation_id=run.correlation_id,
            traceparent=run.traceparent,
            tracestate=run.tracestate,
            timeout_seconds=body.timeout_seconds,
            parent_key=run.run_key,
            parent_ordinal=ordinal,
            details=RunDetails(
                parent_run_id=str(run.run_id),
                parent_workflow_id=run.workflow_id,
                retry=body.retry,
                concurrency=body.concurrency,
                fairness_key=None if run.details is None else unpack_details(run.details).fairness_key,
            ),
        ),
        body.reuse,
        body.conflict,
    )
    try:
        started = start.decide(births, change.now, change.limits)
    except refusals.AlreadyExists as refusal:
        failure = Failure(str(refusal), refusal.reason, non_retryable=True)
        step = _open(change, new, type_name=body.type, task_queue=body.task_queue)
        event = change.event(EventType.CHILD_FAILED, ordinal=ordinal, failure=failure)
        change.end_step(step, StepState.FAILED, event, failure=failure)
        return ordinal
    change.event(EventType.CHILD_STARTED, ordinal=ordinal, facts={"child_run_id": str(started.run_id)})
    _open(
        change,
        new,
        type_name=body.type,
        task_queue=body.task_queue or run.task_queue,
        child_key=started.run_key,
        details=StepDetails(child_run_id=str(started.run_id), close_policy=body.close_policy),
    )
    return ordinal
