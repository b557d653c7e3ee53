"""Tasks for people, each a step of a run. Field order is column order."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import IntEnum
from uuid import UUID

import msgspec

from stepwell_server.model import filters

NEVER_DUE = datetime(9999, 12, 31, tzinfo=UTC)
"""When a task is due that has no such time: after all that have one."""


class TaskStatus(IntEnum):
    """How far a user task has come; the proto's UserTaskStatus."""

    PENDING = 1
    CLAIMED = 2
    COMPLETED = 3
    CANCELLED = 4


ACTIVE = frozenset({TaskStatus.PENDING, TaskStatus.CLAIMED})
TASK_MOVES: dict[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.PENDING: frozenset({TaskStatus.CLAIMED, TaskStatus.CANCELLED}),
    TaskStatus.CLAIMED: frozenset({TaskStatus.PENDING, TaskStatus.COMPLETED, TaskStatus.CANCELLED}),
    TaskStatus.COMPLETED: frozenset(),
    TaskStatus.CANCELLED: frozenset(),
}


class TaskPriority(IntEnum):
    """How urgent a user task is; the proto's UserTaskPriority."""

    LOW = 1
    NORMAL = 2
    HIGH = 3
    URGENT = 4


class TaskSpec(msgspec.Struct, frozen=True, gc=False):
    """What somebody is asked to do, but for its input."""

    title: str = ""
    description: str = ""
    schema_type: str = ""
    assigned_role_id: str = ""
    assigned_user_id: str = ""
    assigned_group_id: str = ""
    priority: int = int(TaskPriority.NORMAL)
    due_time: datetime = NEVER_DUE
    signal_name: str = ""


class UserTask(msgspec.Struct, frozen=True, gc=False):
    """A row of `user_tasks`. Its input and output stand in its run's events of these numbers."""

    run_key: int
    ordinal: int
    namespace_id: int
    task_id: UUID
    run_id: UUID
    workflow_id: str
    step_name: str
    title: str
    description: str
    schema_type: str
    assigned_role_id: str
    assigned_user_id: str
    assigned_group_id: str
    priority: int
    due_time: datetime
    signal_name: str
    status: int
    create_time: datetime
    update_time: datetime
    claimed_by: str
    claim_time: datetime | None
    completed_by: str
    complete_time: datetime | None
    version: int
    input_event: int
    output_event: int

    @property
    def is_active(self) -> bool:
        """Whether somebody may still do it."""
        return self.status in ACTIVE


SPEC_FIELDS = TaskSpec.__struct_fields__
LISTED: filters.Fields = {
    "task_id": filters.ID,
    "run_id": filters.ID,
    "workflow_id": filters.TEXT,
    "step_name": filters.SORTED_TEXT,
    "title": filters.SORTED_TEXT,
    "schema_type": filters.TEXT,
    "assigned_role_id": filters.TEXT,
    "assigned_user_id": filters.TEXT,
    "assigned_group_id": filters.TEXT,
    "priority": filters.member_of(TaskPriority, "USER_TASK_PRIORITY_", is_sortable=True),
    "status": filters.member_of(TaskStatus, "USER_TASK_STATUS_", is_sortable=True),
    "due_time": filters.SORTED_TIME,
    "create_time": filters.SORTED_TIME,
    "update_time": filters.SORTED_TIME,
    "claimed_by": filters.TEXT,
    "completed_by": filters.TEXT,
    "complete_time": filters.TIME,
}
"""By what lists of user tasks are filtered and sorted."""
