"""Schedules between the wire and the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.v1 import runs_pb2, schedules_pb2, types_pb2
from stepwell_server.api.activity_options import retry_to_proto
from stepwell_server.api.concurrency_values import concurrency_to_proto
from stepwell_server.api.definition_values import ref_to_proto
from stepwell_server.api.fields import seconds, time
from stepwell_server.api.payloads import duration_to_proto, payload_to_proto
from stepwell_server.api.run_starts import Metadata, start_from_proto
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.api.search_attributes import attributes_to_proto
from stepwell_server.engine import schedules as engine
from stepwell_server.engine.cron import BadTimes, check
from stepwell_server.errors import InvalidField
from stepwell_server.model.schedules import Overlap, Schedule, Spec

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from google.protobuf.field_mask_pb2 import FieldMask

    from stepwell_server.api.fields import Fields
    from stepwell_server.engine.starts import NewRun

LONGEST_NAME = 200
"""Bytes: a run's workflow id is the name with a time behind it."""
_DAY = 86_400.0
_CHANGEABLE = {"spec", "run", "overlap_policy", "catchup_window"}
_NOT_A_SCHEDULES = ("run_id", "request_id", "reuse_policy", "conflict_policy")


def schedule_from_proto(  # noqa: PLR0917 - one message and where it stands
    message: schedules_pb2.Schedule,
    namespace_id: int,
    namespace: str,
    metadata: Metadata,
    fields: Fields,
    now: datetime,
    schedule_id: UUID,
) -> Schedule:
    """Reads a schedule as it is when it is created, with the trace of the call, to which its firings link."""
    at = "schedule."
    name = _short(fields.name(message.name, "name", at), f"{at}name")
    spec = spec_from_proto(message.spec, fields, f"{at}spec.")
    check_times(spec, now, f"{at}spec.")
    next_time, nominal = engine.next_firing(spec, schedule_id, now)
    catchup = seconds(message, "catchup_window", at)
    return Schedule(
        schedule_id=schedule_id,
        namespace_id=namespace_id,
        name=name,
        cron=spec.cron,
        time_zone=spec.time_zone,
        jitter_seconds=spec.jitter_seconds,
        start_time=spec.start_time,
        end_time=spec.end_time,
        overlap_policy=overlap_from_proto(message.overlap_policy, fields, at) or Overlap.SKIP,
        catchup_seconds=_DAY if catchup is None else catchup,
        run=engine.pack_run(_run_from_proto(message.run, namespace_id, namespace, metadata, fields, f"{at}run.")),
        pause_reason=fields.remark(message.pause_reason, "pause_reason", at) if message.paused else None,
        create_time=now,
        update_time=now,
        version=0,
        next_time=None if message.paused else next_time,
        next_nominal=None if message.paused else nominal,
        waiting=0,
        last_time=None,
        last_workflow_id="",
        last_run_id=None,
        fired=0,
        skipped=0,
        missed=0,
        last_error="",
    )


def _run_from_proto(  # noqa: PLR0917 - one message and where it stands
    message: runs_pb2.StartRunRequest, namespace_id: int, namespace: str, metadata: Metadata, fields: Fields, at: str
) -> NewRun:
    for field in _NOT_A_SCHEDULES:
        if getattr(message, field):
            raise InvalidField(field=at + field, problem="must be empty: each firing's run has its own")
    if message.HasField("debounce"):
        raise InvalidField(field=f"{at}debounce", problem="must be empty: each firing has a run of its own")
    if message.namespace not in {"", namespace}:
        raise InvalidField(field=f"{at}namespace", problem=f"must be empty or {namespace}, the schedule's own")
    _short(message.workflow_id, f"{at}workflow_id")
    return start_from_proto(message, namespace_id, namespace, metadata, fields, at).new


def _short(name: str, field: str) -> str:
    if len(name.encode()) > LONGEST_NAME:
        problem = f"has {len(name.encode())} bytes: give it at most {LONGEST_NAME}, since runs' names are longer"
        raise InvalidField(field=field, problem=problem)
    return name


def spec_from_proto(message: schedules_pb2.ScheduleSpec, fields: Fields, at: str) -> Spec:
    """Reads when a schedule fires."""
    return Spec(
        cron=fields.name(message.cron, "cron", at),
        time_zone=fields.text(message.time_zone, "time_zone", at) or "UTC",
        jitter_seconds=seconds(message, "jitter", at, at_most=_DAY) or 0.0,
        start_time=time(message, "start_time", at),
        end_time=time(message, "end_time", at),
    )


def check_times(spec: Spec, now: datetime, at: str) -> None:
    """Refuses a spec that names no times."""
    try:
        check(spec, now)
    except BadTimes as error:
        raise InvalidField(field=at + error.field, problem=error.problem) from None


def overlap_from_proto(value: int, fields: Fields, at: str = "") -> int:
    """Reads an overlap policy; 0 if it is not set."""
    return fields.member(value, schedules_pb2.ScheduleOverlapPolicy, "overlap_policy", at)


def schedule_to_proto(schedule: Schedule, *, with_input: bool = True) -> schedules_pb2.Schedule:
    """Renders a schedule."""
    return schedules_pb2.Schedule(
        name=schedule.name,
        spec=schedules_pb2.ScheduleSpec(
            cron=schedule.cron,
            time_zone=schedule.time_zone,
            jitter=duration_to_proto(schedule.jitter_seconds or None),
            start_time=time_to_proto(schedule.start_time),
            end_time=time_to_proto(schedule.end_time),
        ),
        run=_run_to_proto(engine.unpack_run(schedule.run), with_input=with_input),
        overlap_policy=schedules_pb2.ScheduleOverlapPolicy.ValueType(schedule.overlap_policy),
        catchup_window=duration_to_proto(schedule.catchup_seconds),
        paused=schedule.pause_reason is not None,
        pause_reason=schedule.pause_reason or "",
        create_time=time_to_proto(schedule.create_time),
        update_time=time_to_proto(schedule.update_time),
        next_time=time_to_proto(schedule.next_time),
        last_time=time_to_proto(schedule.last_time),
        last_workflow_id=schedule.last_workflow_id,
        last_run_id=str(schedule.last_run_id or ""),
        fired_count=schedule.fired,
        skipped_count=schedule.skipped,
        missed_count=schedule.missed,
        waiting_count=schedule.waiting,
        last_error=schedule.last_error,
    )


def _run_to_proto(run: NewRun, *, with_input: bool) -> runs_pb2.StartRunRequest:
    policy = types_pb2.CancellationPolicy(
        maximum_run_duration=duration_to_proto(run.details.maximum_run_seconds),
        maximum_suspend_duration=duration_to_proto(run.details.maximum_suspend_seconds),
    )
    return runs_pb2.StartRunRequest(
        type=run.type,
        task_queue=run.task_queue,
        workflow_id=run.workflow_id,
        input=payload_to_proto(run.input) if with_input else None,
        priority=run.priority,
        run_timeout=duration_to_proto(run.timeout_seconds),
        start_delay=duration_to_proto(run.delay_seconds),
        correlation_id=run.correlation_id,
        cancellation_policy=policy if policy.ByteSize() else None,
        retry=retry_to_proto(run.details.retry),
        concurrency=concurrency_to_proto(run.details.concurrency),
        fairness_key=run.details.fairness_key or "",
        search_attributes=attributes_to_proto(run.search_attributes),
        definition=None if run.definition is None else ref_to_proto(run.definition),
    )


def check_mask(mask: FieldMask) -> None:
    """Refuses a mask that names nothing, or what a schedule has not or does not let change."""
    if not mask.paths:
        raise InvalidField(field="update_mask", problem=f"is required: name some of {', '.join(sorted(_CHANGEABLE))}")
    for path in mask.paths:
        if path.split(".")[0] not in _CHANGEABLE:
            problem = f"names {path!r}: what may be changed is {', '.join(sorted(_CHANGEABLE))} and their fields"
            raise InvalidField(field="update_mask", problem=problem)
    if not mask.IsValidForDescriptor(schedules_pb2.Schedule.DESCRIPTOR):
        raise InvalidField(field="update_mask", problem=f"names a field that a schedule has not: {list(mask.paths)}")
