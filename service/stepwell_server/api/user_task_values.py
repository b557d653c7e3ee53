"""User tasks between the wire and the layers below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.v1 import types_pb2, user_tasks_pb2
from stepwell_server.api.fields import seconds, time
from stepwell_server.api.payloads import payload_from_proto, payload_to_proto
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.engine.reported import NewUserTask
from stepwell_server.errors import InvalidField
from stepwell_server.model.user_tasks import NEVER_DUE, SPEC_FIELDS, TaskPriority, TaskSpec, TaskStatus

if TYPE_CHECKING:
    from google.protobuf.field_mask_pb2 import FieldMask

    from stepwell.v1 import workers_pb2
    from stepwell_server.api.fields import Fields
    from stepwell_server.store.user_tasks import WholeTask

_CHANGEABLE = frozenset({*SPEC_FIELDS, "input"})
_SHOWN = 64


def spec_from_proto(spec: user_tasks_pb2.UserTaskSpec, fields: Fields, at: str = "spec.") -> TaskSpec:
    """Reads what somebody is asked to do, but for its input."""
    priority = fields.member(spec.priority, user_tasks_pb2.UserTaskPriority, "priority", at)
    return TaskSpec(
        title=fields.remark(spec.title, "title", at),
        description=fields.remark(spec.description, "description", at),
        schema_type=fields.text(spec.schema_type, "schema_type", at),
        assigned_role_id=fields.text(spec.assigned_role_id, "assigned_role_id", at),
        assigned_user_id=fields.text(spec.assigned_user_id, "assigned_user_id", at),
        assigned_group_id=fields.text(spec.assigned_group_id, "assigned_group_id", at),
        priority=priority or TaskPriority.NORMAL,
        due_time=time(spec, "due_time", at) or NEVER_DUE,
        signal_name=fields.text(spec.signal_name, "signal_name", at),
    )


def step_from_proto(step: workers_pb2.UserTaskStep, fields: Fields, at: str) -> NewUserTask:
    """Reads the task that a run's code asks for."""
    spec, here = spec_from_proto(step.spec, fields, f"{at}spec."), f"{at}spec."
    if spec.signal_name:
        raise InvalidField(field=f"{here}signal_name", problem="is for driven runs: the code goes on with the output")
    if step.HasField("due_after") and step.spec.HasField("due_time"):
        raise InvalidField(field=f"{at}due_after", problem="stands in place of spec.due_time: give one of them")
    return NewUserTask(
        spec,
        payload_from_proto(step.spec.input, fields, "input", here),
        seconds(step, "due_after", at),
        seconds(step, "timeout", at),
    )


def mask_from_proto(mask: FieldMask) -> frozenset[str]:
    """Reads which fields of `spec` are to change."""
    for path in mask.paths:
        if path not in _CHANGEABLE:
            problem = f"names {path[:_SHOWN]!r}: a task's {', '.join(sorted(_CHANGEABLE))} can be changed"
            raise InvalidField(field="update_mask", problem=problem)
    if not mask.paths:
        raise InvalidField(field="update_mask", problem="is required: name at least one field of spec")
    return frozenset(mask.paths)


def task_to_proto(whole: WholeTask, namespace: str) -> user_tasks_pb2.UserTask:
    """Renders a task with its payloads."""
    task = whole.task
    spec = user_tasks_pb2.UserTaskSpec(
        title=task.title,
        description=task.description,
        schema_type=task.schema_type,
        assigned_role_id=task.assigned_role_id,
        assigned_user_id=task.assigned_user_id,
        assigned_group_id=task.assigned_group_id,
        priority=user_tasks_pb2.UserTaskPriority.ValueType(task.priority),
        input=payload_to_proto(whole.input) or types_pb2.Payload(),
        due_time=time_to_proto(task.due_time) if task.due_time != NEVER_DUE else None,
        signal_name=task.signal_name,
    )
    is_done = task.status == TaskStatus.COMPLETED
    return user_tasks_pb2.UserTask(
        task_id=str(task.task_id),
        namespace=namespace,
        run_id=str(task.run_id),
        workflow_id=task.workflow_id,
        step_name=task.step_name,
        step_ordinal=task.ordinal,
        spec=spec,
        status=user_tasks_pb2.UserTaskStatus.ValueType(task.status),
        output=payload_to_proto(whole.output) if is_done else None,
        create_time=time_to_proto(task.create_time),
        update_time=time_to_proto(task.update_time),
        claimed_by=task.claimed_by,
        claim_time=time_to_proto(task.claim_time),
        completed_by=task.completed_by,
        complete_time=time_to_proto(task.complete_time),
        version=task.version,
    )
