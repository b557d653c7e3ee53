"""Vyuh's `UserTaskInstanceRepository`: what workflows ask of people."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from google.protobuf.field_mask_pb2 import FieldMask

from stepwell.reasons import UserTaskNotFound
from stepwell.stores._connection import Store, payload_of, stamp, time_of, value_of
from stepwell.v1 import user_tasks_pb2 as tasks
from stepwell.v1.user_tasks_pb2_grpc import UserTaskServiceStub

if TYPE_CHECKING:
    from stepwell.v1.user_tasks_pb2_grpc import UserTaskServiceAsyncStub

_NOW = dt.datetime.fromtimestamp(0, dt.UTC)
_WRITTEN = FieldMask(paths=[each.name for each in tasks.UserTaskSpec.DESCRIPTOR.fields])


class TaskStatus(StrEnum):
    """How far a task has come."""

    pending = "pending"
    claimed = "claimed"
    completed = "completed"
    cancelled = "cancelled"


class UserTaskPriority(StrEnum):
    """How urgent a task is."""

    low = "low"
    normal = "normal"
    high = "high"
    urgent = "urgent"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserTaskInstance:
    """An inbox item. `id` is a UUID, or empty where `create` is to choose one."""

    id: str = ""
    workflowInstanceId: str
    nodeId: str
    schemaType: str
    title: str
    description: str | None = None
    signalName: str | None = None
    assignedToRoleId: str | None = None
    assignedToUserId: str | None = None
    assignedToGroupId: str | None = None
    status: TaskStatus = TaskStatus.pending
    priority: UserTaskPriority = UserTaskPriority.normal
    input: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] | None = None
    createdAt: dt.datetime = _NOW
    updatedAt: dt.datetime = _NOW
    dueAt: dt.datetime | None = None
    claimedAt: dt.datetime | None = None
    claimedBy: str | None = None
    completedAt: dt.datetime | None = None
    completedBy: str | None = None


class UserTaskInstanceRepository(Store):
    """The tasks of a namespace. An instance's id is its run's `workflow_id`, and a node a step of the run."""

    async def getById(self, id: str) -> UserTaskInstance | None:
        """The task of that id, or `None`."""
        request = tasks.GetUserTaskRequest(namespace=self.namespace, task_id=id)
        try:
            return _task((await self.call(self._stub.GetUserTask, request)).user_task)
        except UserTaskNotFound:
            return None

    async def getByWorkflowInstanceId(self, workflowInstanceId: str) -> list[UserTaskInstance]:
        """All tasks of an instance, newest first."""
        return await self.search(workflowInstanceId=workflowInstanceId)

    async def getByStatus(self, status: TaskStatus) -> list[UserTaskInstance]:
        """All tasks of a status, newest first."""
        return await self.search(status=status)

    async def getPendingByRoleId(self, roleId: str) -> list[UserTaskInstance]:
        """What is pending for a role: the most urgent first, then what is due first."""
        return await self._inbox(role_ids=[roleId])

    async def getPendingByRoleIds(self, roleIds: list[str]) -> list[UserTaskInstance]:
        """What is pending for any of these roles, in the same order."""
        return await self._inbox(role_ids=roleIds) if roleIds else []

    async def getPendingByUserId(self, userId: str) -> list[UserTaskInstance]:
        """What is pending for a user, in the same order."""
        return await self._inbox(user_id=userId)

    async def getPendingByGroupId(self, groupId: str) -> list[UserTaskInstance]:
        """What is pending for a group, in the same order."""
        return await self._inbox(group_ids=[groupId])

    async def create(self, task: UserTaskInstance) -> UserTaskInstance:
        """Creates a task, and gives it back as it is stored. Raises `RunNotFound`, `RunTerminal`, `UserTaskExists`.

        Differs: it is pending, and its times are the service's, whatever the record says: a task that begins claimed or
        completed has been claimed and completed by nobody.
        """
        request = tasks.CreateUserTaskRequest(
            namespace=self.namespace,
            workflow_id=task.workflowInstanceId,
            step_name=task.nodeId,
            task_id=task.id,
            spec=_spec(task),
        )
        return _task((await self.call(self._stub.CreateUserTask, request)).user_task)

    async def update(self, task: UserTaskInstance) -> UserTaskInstance:
        """Changes what an open task asks for, and gives it back. Raises `UserTaskNotFound`, `UserTaskStateConflict`.

        Differs: status, claim and output are not written. They change by `claim`, `complete` and `cancel`, so that an
        update which was read before a claim does not undo it.
        """
        request = tasks.UpdateUserTaskRequest(
            namespace=self.namespace, task_id=task.id, spec=_spec(task), update_mask=_WRITTEN
        )
        return _task((await self.call(self._stub.UpdateUserTask, request)).user_task)

    async def delete(self, id: str) -> None:
        """Deletes a task, if it is there."""
        request = tasks.DeleteUserTaskRequest(namespace=self.namespace, task_id=id)
        await self.call(self._stub.DeleteUserTask, request)

    async def claim(self, taskId: str, userId: str) -> UserTaskInstance:
        """Gives a task to a user. Raises `UserTaskStateConflict` if another has it, `UserTaskAssignedElsewhere`."""
        request = tasks.ClaimUserTaskRequest(namespace=self.namespace, task_id=taskId, user_id=userId)
        return _task((await self.call(self._stub.ClaimUserTask, request)).user_task)

    async def complete(self, taskId: str, userId: str, output: dict[str, Any]) -> UserTaskInstance:
        """Completes a task that the user has claimed. Raises `UserTaskStateConflict` otherwise."""
        request = tasks.CompleteUserTaskRequest(
            namespace=self.namespace, task_id=taskId, user_id=userId, output=payload_of(output)
        )
        return _task((await self.call(self._stub.CompleteUserTask, request)).user_task)

    async def cancel(self, taskId: str) -> UserTaskInstance:
        """Cancels an open task. Raises `UserTaskStateConflict` if it is completed."""
        request = tasks.CancelUserTaskRequest(namespace=self.namespace, task_id=taskId)
        return _task((await self.call(self._stub.CancelUserTask, request)).user_task)

    async def cancelByWorkflowInstanceId(self, workflowInstanceId: str) -> int:
        """Cancels the open tasks of an instance. Gives how many these were."""
        request = tasks.CancelRunUserTasksRequest(namespace=self.namespace, workflow_id=workflowInstanceId)
        return (await self.call(self._stub.CancelRunUserTasks, request)).cancelled_count

    async def findActive(self, *, workflowInstanceId: str, nodeId: str) -> UserTaskInstance | None:
        """The task that is open for a node of an instance, or `None`."""
        request = tasks.GetActiveUserTaskRequest(
            namespace=self.namespace, workflow_id=workflowInstanceId, step_name=nodeId
        )
        answer = await self.call(self._stub.GetActiveUserTask, request)
        return _task(answer.user_task) if answer.found else None

    async def search(
        self,
        *,
        workflowInstanceId: str | None = None,
        nodeId: str | None = None,
        status: TaskStatus | None = None,
        assignedToUserId: str | None = None,
        assignedToRoleId: str | None = None,
        assignedToGroupId: str | None = None,
        query: str | None = None,
    ) -> list[UserTaskInstance]:
        """All tasks that fit what is given, newest first. `query` is looked for in titles, descriptions and nodes."""
        request = tasks.ListUserTasksRequest(
            namespace=self.namespace,
            workflow_id=workflowInstanceId or "",
            step_name=nodeId or "",
            statuses=[tasks.UserTaskStatus.Value(f"USER_TASK_STATUS_{status.upper()}")] if status else [],
            assigned_user_id=assignedToUserId or "",
            assigned_role_id=assignedToRoleId or "",
            assigned_group_id=assignedToGroupId or "",
            query=query or "",
        )
        return await self._listed(request)

    @property
    def _stub(self) -> UserTaskServiceAsyncStub:
        return UserTaskServiceStub(self.channel)

    async def _listed(self, request: tasks.ListUserTasksRequest) -> list[UserTaskInstance]:
        return [_task(each) for each in await self.every(self._stub.ListUserTasks, request, "user_tasks")]

    async def _inbox(self, **whose: Any) -> list[UserTaskInstance]:  # noqa: ANN401 - fields of the request
        request = tasks.ListInboxRequest(namespace=self.namespace, **whose)
        return [_task(each) for each in await self.every(self._stub.ListInbox, request, "user_tasks")]


def _spec(task: UserTaskInstance) -> tasks.UserTaskSpec:
    return tasks.UserTaskSpec(
        title=task.title,
        description=task.description or "",
        schema_type=task.schemaType,
        assigned_role_id=task.assignedToRoleId or "",
        assigned_user_id=task.assignedToUserId or "",
        assigned_group_id=task.assignedToGroupId or "",
        priority=tasks.UserTaskPriority.Value(f"USER_TASK_PRIORITY_{task.priority.upper()}"),
        input=payload_of(task.input),
        due_time=stamp(task.dueAt),
        signal_name=task.signalName or "",
    )


def _task(task: tasks.UserTask) -> UserTaskInstance:
    spec = task.spec
    return UserTaskInstance(
        id=task.task_id,
        workflowInstanceId=task.workflow_id,
        nodeId=task.step_name,
        schemaType=spec.schema_type,
        title=spec.title,
        description=spec.description or None,
        signalName=spec.signal_name or None,
        assignedToRoleId=spec.assigned_role_id or None,
        assignedToUserId=spec.assigned_user_id or None,
        assignedToGroupId=spec.assigned_group_id or None,
        status=TaskStatus(tasks.UserTaskStatus.Name(task.status).removeprefix("USER_TASK_STATUS_").lower()),
        priority=UserTaskPriority(
            tasks.UserTaskPriority.Name(spec.priority).removeprefix("USER_TASK_PRIORITY_").lower()
        ),
        input=value_of(spec.input) or {},
        output=value_of(task.output) if task.HasField("output") else None,
        createdAt=task.create_time.ToDatetime(dt.UTC),
        updatedAt=task.update_time.ToDatetime(dt.UTC),
        dueAt=time_of(spec, "due_time"),
        claimedAt=time_of(task, "claim_time"),
        claimedBy=task.claimed_by or None,
        completedAt=time_of(task, "complete_time"),
        completedBy=task.completed_by or None,
    )
