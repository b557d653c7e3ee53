"""Runs and steps between the wire and the layers below, and what calls about runs share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from stepwell.v1 import concurrency_pb2, definitions_pb2, runs_pb2, types_pb2
from stepwell_server.api.activity_options import retry_to_proto
from stepwell_server.api.concurrency_values import concurrency_to_proto
from stepwell_server.api.differences import difference_to_proto
from stepwell_server.api.fields import optional_uuid
from stepwell_server.api.payloads import duration_to_proto, failure_to_proto, fill_time, payload_to_proto
from stepwell_server.api.run_data import data_to_proto
from stepwell_server.api.search_attributes import attributes_to_proto
from stepwell_server.api.task_waits import task_wait_to_proto
from stepwell_server.errors import InvalidField
from stepwell_server.ids import pack
from stepwell_server.model.runs import Followed, Phase, RunDetails, RunRef, unpack_details
from stepwell_server.model.steps import DEFAULT_RETRY, Kind, StepDetails, StepState, unpack_step_details
from stepwell_server.model.tasks import TaskKind

if TYPE_CHECKING:
    from datetime import datetime
    from typing import Protocol

    from stepwell_server.api.fields import Fields
    from stepwell_server.model.search_attributes import Values
    from stepwell_server.model.workers import Crew
    from stepwell_server.store.namespaces import Namespaces
    from stepwell_server.store.runs import SeenRun, WholeRun
    from stepwell_server.store.steps import WholeStep

    class NamesRun(Protocol):
        """A request about one run."""

        namespace: str
        run_id: str
        workflow_id: str


Item = TypeVar("Item")
MESSAGE_MARGIN = 64 * 1024
"""What a page's own fields may take beside its payloads."""


class RunRefs:
    """Reads which run a request is about."""

    def __init__(self, fields: Fields, namespaces: Namespaces) -> None:
        self._fields = fields
        self._namespaces = namespaces

    async def read(self, request: NamesRun) -> RunRef:
        """The run that is meant: by its id, else by its workflow id; in any namespace for `-`."""
        namespace = self._fields.any_namespace(request.namespace)
        namespace_id = None if namespace is None else await self._namespaces.id_of(namespace)
        return self.within(namespace_id, namespace or "-", request)

    def within(self, namespace_id: int | None, namespace: str, request: NamesRun, at: str = "") -> RunRef:
        """The same in a namespace that is known."""
        run_id = optional_uuid(request.run_id, "run_id", at)
        if run_id is not None:
            return RunRef(namespace_id, namespace, run_id=run_id)
        if not request.workflow_id:
            raise InvalidField(field=f"{at}run_id", problem="is required, or else workflow_id")
        workflow_id = self._fields.text(request.workflow_id, "workflow_id", at)
        return RunRef(namespace_id, namespace, workflow_id=workflow_id)


async def each(items: Iterable[Item], submit: Callable[[int, Item], asyncio.Future[object]]) -> list[object]:
    """Submits all items before it waits for any, and answers what came of each: its answer, or what refused it."""
    pending = [_submitted(submit, place, item) for place, item in enumerate(items)]
    return await asyncio.gather(*pending, return_exceptions=True)


def _submitted(submit: Callable[[int, Item], asyncio.Future[object]], place: int, item: Item) -> asyncio.Future[object]:
    try:
        return submit(place, item)
    except Exception as refusal:  # noqa: BLE001 - it is this item's answer, and no other's
        failed: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        failed.set_exception(refusal)
        return failed


def time_to_proto(time: datetime | None) -> Timestamp | None:
    """Renders a time."""
    if time is None:
        return None
    stamp = Timestamp()
    fill_time(stamp, time)
    return stamp


def run_to_proto(run: SeenRun, namespace: str, attributes: Values | None = None) -> runs_pb2.Run:
    """Renders a run without its payloads."""
    details = unpack_details(run.details)
    return runs_pb2.Run(
        namespace=namespace,
        run_id=str(run.run_id),
        workflow_id=run.workflow_id,
        type=run.type,
        task_queue=run.task_queue,
        phase=types_pb2.RunPhase.ValueType(run.phase),
        pause=_pause_to_proto(run, details),
        cancel_request=_cancel_request_to_proto(run),
        create_time=time_to_proto(run.create_time),
        update_time=time_to_proto(run.update_time),
        end_time=time_to_proto(run.end_time),
        deadline=time_to_proto(details.deadline or run.deadline),
        timed_out_time=time_to_proto(details.timed_out_time),
        parent_run_id=details.parent_run_id,
        parent_workflow_id=details.parent_workflow_id,
        source_run_id=details.source_run_id,
        continued_run_id=details.continued_run_id,
        correlation_id=run.correlation_id,
        priority=run.priority,
        fairness_key=details.fairness_key or "",
        driven=run.driven,
        managed=run.managed,
        version=run.version,
        event_count=run.last_event,
        owner_id=run.owner_id,
        lease_expire_time=time_to_proto(run.lease_expire_time),
        build_id=run.build_id,
        number=pack(run.run_key, 0),
        traceparent=run.traceparent,
        wake_time=None if run.is_closed else time_to_proto(details.resume_time),
        wait_topic="" if run.is_closed else details.wait_topic or "",
        cancellation_policy=_policy_to_proto(details),
        active_step=details.active_step,
        wake=_wake_to_proto(details),
        published_names=details.published,
        attempt=details.attempt,
        retry=retry_to_proto(details.retry),
        begin_time=time_to_proto(details.begin_time) if run.phase == Phase.PENDING else None,
        search_attributes=attributes_to_proto(attributes or {}),
        archive_time=time_to_proto(details.archive_time),
        archive_uri=details.archive_uri,
        purged=details.is_purged,
        definition=_followed_to_proto(details.definition),
        data_version=details.data_version,
        concurrency=concurrency_to_proto(details.concurrency),
        slot_state=concurrency_pb2.SlotState.ValueType(details.slot),
    )


def whole_run_to_proto(whole: WholeRun, namespace: str, crew: Crew | None = None) -> runs_pb2.Run:
    """Renders a run with its payloads; if its task waits, with what that waits for."""
    run = run_to_proto(whole.run, namespace, whole.search_attributes)
    if crew is not None and whole.ready_time is not None:
        seen = whole.run
        wait = task_wait_to_proto(TaskKind.RUN, seen.type, seen.task_queue, seen.build_id, whole.ready_time, crew)
        run.task_wait.CopyFrom(wait)
    run.input.CopyFrom(payload_to_proto(whole.input) or types_pb2.Payload())
    run.cursor = whole.cursor
    if whole.result is not None:
        run.result.CopyFrom(payload_to_proto(whole.result) or types_pb2.Payload())
    if (failure := failure_to_proto(whole.failure)) is not None:
        run.failure.CopyFrom(failure)
    if (last_failure := failure_to_proto(whole.last_failure)) is not None:
        run.last_failure.CopyFrom(last_failure)
    if (suspension := payload_to_proto(whole.suspension)) is not None:
        run.suspension_data.CopyFrom(suspension)
    if (wake := payload_to_proto(whole.wake)) is not None:
        run.wake.payload.CopyFrom(wake)
    run.data_omitted = whole.data_omitted
    for name, message in data_to_proto(whole.data).items():
        run.data[name].CopyFrom(message)
    if whole.differences:
        run.pause.differences.extend(difference_to_proto(each) for each in whole.differences)
    return run


def step_to_proto(whole: WholeStep) -> runs_pb2.Step:
    """Renders a step with its payloads."""
    step, details = whole.step, unpack_step_details(whole.step.details)
    is_activity = step.kind == Kind.ACTIVITY
    return runs_pb2.Step(
        ordinal=step.ordinal,
        scope=step.scope,
        name=step.name,
        occurrence=step.occurrence,
        key=step.key,
        kind=types_pb2.StepKind.ValueType(step.kind),
        state=types_pb2.StepState.ValueType(step.state),
        attempt=step.attempt,
        input=payload_to_proto(whole.input),
        result=payload_to_proto(whole.result) if step.state == StepState.COMPLETED else None,
        failure=failure_to_proto(whole.failure or (None if step.end_event else details.last_failure)),
        task_queue=step.task_queue,
        type=step.type or details.update_name,
        create_time=time_to_proto(step.create_time),
        start_time=time_to_proto(step.start_time),
        end_time=time_to_proto(step.end_time),
        wake_time=time_to_proto(step.wake_time),
        heartbeat_time=time_to_proto(step.beat_time),
        heartbeat_details=payload_to_proto(whole.heartbeat),
        owner_id=step.owner_id,
        wait_name=step.wait_name or "",
        number=pack(step.run_key, step.ordinal),
        seq=step.seq,
        child_run_id=details.child_run_id,
        completion=step.end_event,
        on_topic=details.after_number is not None,
        skip=_skip_to_proto(whole, details),
        job_id=details.job_id,
        lease_expire_time=time_to_proto(details.claim_expire_time),
        user_task_id=details.user_task_id,
        maximum_attempts=(details.retry or DEFAULT_RETRY).maximum_attempts if is_activity else 0,
    )


def _skip_to_proto(whole: WholeStep, details: StepDetails) -> runs_pb2.Step.Skip | None:
    if whole.step.state != StepState.SKIPPED:
        return None
    cause = runs_pb2.Step.Skip.Cause.ValueType(details.skip_cause)
    trace = payload_to_proto(whole.result) if whole.result is not None and whole.result.kind else None
    return runs_pb2.Step.Skip(reason=details.skip_reason, cause=cause, evaluation_trace=trace)


def _followed_to_proto(followed: Followed | None) -> definitions_pb2.DefinitionRef | None:
    if followed is None:
        return None
    return definitions_pb2.DefinitionRef(
        definition_id=str(followed.definition_id), code=followed.code, version=followed.version
    )


def _pause_to_proto(run: SeenRun, details: RunDetails) -> runs_pb2.Run.Pause | None:
    if run.pause_reason is None:
        return None
    time = time_to_proto(details.pause_time)
    return runs_pb2.Run.Pause(reason=run.pause_reason, details=details.pause_details, time=time)


def _wake_to_proto(details: RunDetails) -> runs_pb2.Run.Wake | None:
    if not details.wake_cause:
        return None
    return runs_pb2.Run.Wake(
        cause=runs_pb2.Run.Wake.Cause.ValueType(details.wake_cause),
        step_name=details.wake_step,
        topic=details.wake_topic,
        time=time_to_proto(details.woken_time),
    )


def _cancel_request_to_proto(run: SeenRun) -> runs_pb2.Run.CancelRequest | None:
    if run.cancel_time is None:
        return None
    return runs_pb2.Run.CancelRequest(reason=run.cancel_reason or "", time=time_to_proto(run.cancel_time))


def _policy_to_proto(details: RunDetails) -> types_pb2.CancellationPolicy | None:
    if details.maximum_run_seconds is None and details.maximum_suspend_seconds is None:
        return None
    return types_pb2.CancellationPolicy(
        maximum_run_duration=duration_to_proto(details.maximum_run_seconds),
        maximum_suspend_duration=duration_to_proto(details.maximum_suspend_seconds),
    )
