"""Tasks for people: what runs ask of them, where they find it, and what they answer."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from google.protobuf.field_mask_pb2 import FieldMask

from stepwell._rpc import uuid7
from stepwell.options import DrivenTaskOptions, UserTaskFilter, UserTaskOptions
from stepwell.policies import timestamp
from stepwell.runs import PAGE_SIZE
from stepwell.v1 import user_tasks_pb2 as messages
from stepwell.v1.user_tasks_pb2_grpc import UserTaskServiceStub

if TYPE_CHECKING:
    import grpc.aio

    from stepwell._rpc import Caller
    from stepwell.converter import DataConverter

_FIELDS = {
    "role": "assigned_role_id",
    "user": "assigned_user_id",
    "group": "assigned_group_id",
    "due": "due_time",
}


class UserTasks:
    """A client's tasks for people; `client.user_tasks`. Tasks are given as the protocol's messages."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller, namespace: str, converter: DataConverter) -> None:
        """Made by the client."""
        self._stub = UserTaskServiceStub(channel)
        self._caller = caller
        self._namespace = namespace
        self._converter = converter

    def input_of(self, task: messages.UserTask, as_type: object = None) -> Any:  # noqa: ANN401 - the type says
        """What a task was given, as `as_type` if told. Raises `ConversionError`."""
        return self._converter.from_payload(task.spec.input, as_type)

    def output_of(self, task: messages.UserTask, as_type: object = None) -> Any:  # noqa: ANN401
        """What a completed task came to, as `as_type` if told. Raises `ConversionError`."""
        return self._converter.from_payload(task.output, as_type)

    async def inbox(
        self, *, user: str = "", roles: Sequence[str] = (), groups: Sequence[str] = ()
    ) -> AsyncGenerator[messages.UserTask, None]:
        """Lists what is pending for a user, or for any of these roles or groups: the most urgent first.

        Then what is due first, then the oldest. Raises `InvalidField` if nobody is named.
        """
        request = messages.ListInboxRequest(
            namespace=self._namespace, user_id=user, role_ids=roles, group_ids=groups, page_size=PAGE_SIZE
        )
        while True:
            page = await self._caller.call(self._stub.ListInbox, request)
            for task in page.user_tasks:
                yield task
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def list(self, **only: Unpack[UserTaskFilter]) -> AsyncGenerator[messages.UserTask, None]:
        """Lists tasks. Raises `InvalidField`; `ValueError` for a status that there is not."""
        request = messages.ListUserTasksRequest(
            namespace=self._namespace,
            statuses=[messages.UserTaskStatus.Value(f"USER_TASK_STATUS_{each}") for each in only.get("statuses", ())],
            run_id=only.get("run_id", ""),
            workflow_id=only.get("workflow_id", ""),
            step_name=only.get("step_name", ""),
            assigned_role_id=only.get("role", ""),
            assigned_user_id=only.get("user", ""),
            assigned_group_id=only.get("group", ""),
            query=only.get("query", ""),
            filter=only.get("filter", ""),
            order_by=only.get("order_by", ""),
            page_size=PAGE_SIZE,
        )
        while True:
            page = await self._caller.call(self._stub.ListUserTasks, request)
            for task in page.user_tasks:
                yield task
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get(self, task_id: str) -> messages.UserTask:
        """Reads a task. Raises `UserTaskNotFound`."""
        request = messages.GetUserTaskRequest(namespace=self._namespace, task_id=task_id)
        return (await self._caller.call(self._stub.GetUserTask, request)).user_task

    async def active(self, step_name: str, *, run_id: str = "", workflow_id: str = "") -> messages.UserTask | None:
        """Reads the task that is open for a step of a run, or gives `None`."""
        request = messages.GetActiveUserTaskRequest(
            namespace=self._namespace, run_id=run_id, workflow_id=workflow_id, step_name=step_name
        )
        answer = await self._caller.call(self._stub.GetActiveUserTask, request)
        return answer.user_task if answer.found else None

    async def claim(self, task_id: str, user: str) -> messages.UserTask:
        """Gives a task to a user. Raises `UserTaskNotFound`, `UserTaskStateConflict`, `UserTaskAssignedElsewhere`."""
        request = messages.ClaimUserTaskRequest(
            namespace=self._namespace, task_id=task_id, user_id=user, request_id=uuid7()
        )
        return (await self._caller.call(self._stub.ClaimUserTask, request)).user_task

    async def unclaim(self, task_id: str, user: str = "") -> messages.UserTask:
        """Takes the claim of a user back, or of whoever has it. Raises `UserTaskNotFound`, `UserTaskStateConflict`."""
        request = messages.UnclaimUserTaskRequest(
            namespace=self._namespace, task_id=task_id, user_id=user, request_id=uuid7()
        )
        return (await self._caller.call(self._stub.UnclaimUserTask, request)).user_task

    async def complete(self, task_id: str, user: str, output: object = None) -> messages.UserTask:
        """Completes a task that the user has claimed. Raises `UserTaskNotFound`, `UserTaskStateConflict`."""
        request = messages.CompleteUserTaskRequest(
            namespace=self._namespace,
            task_id=task_id,
            user_id=user,
            output=self._converter.to_payload(output),
            request_id=uuid7(),
        )
        return (await self._caller.call(self._stub.CompleteUserTask, request)).user_task

    async def cancel(self, task_id: str, reason: str = "") -> messages.UserTask:
        """Cancels an open task; the code that waits for it hears. Raises as `complete`."""
        request = messages.CancelUserTaskRequest(
            namespace=self._namespace, task_id=task_id, reason=reason, request_id=uuid7()
        )
        return (await self._caller.call(self._stub.CancelUserTask, request)).user_task

    async def cancel_run(self, *, run_id: str = "", workflow_id: str = "", reason: str = "") -> int:
        """Cancels the open tasks of a run, and gives how many these were. Raises `RunNotFound`."""
        request = messages.CancelRunUserTasksRequest(
            namespace=self._namespace, run_id=run_id, workflow_id=workflow_id, reason=reason, request_id=uuid7()
        )
        return (await self._caller.call(self._stub.CancelRunUserTasks, request)).cancelled_count

    async def create(
        self,
        step_name: str,
        input: object = None,  # noqa: A002
        *,
        run_id: str = "",
        workflow_id: str = "",
        task_id: str = "",
        unless_active: bool = False,
        token: int = 0,
        **options: Unpack[DrivenTaskOptions],
    ) -> messages.UserTask:
        """Creates a task of a driven run; `unless_active` gives the one that is open for the step in its place.

        `token` is the claim's, if the run is held under a lease. Raises `RunNotFound`, `RunNotDriven`, `RunTerminal`,
        `LeaseLost`, `UserTaskExists`.
        """
        spec = _spell_all(options)
        spec.input.CopyFrom(self._converter.to_payload(input))
        request = messages.CreateUserTaskRequest(
            namespace=self._namespace,
            run_id=run_id,
            workflow_id=workflow_id,
            step_name=step_name,
            task_id=task_id,
            spec=spec,
            unless_active=unless_active,
            token=token,
            request_id=uuid7(),
        )
        return (await self._caller.call(self._stub.CreateUserTask, request)).user_task

    async def update(
        self, task_id: str, *, expected_version: int = 0, **options: Unpack[DrivenTaskOptions]
    ) -> messages.UserTask:
        """Changes the options given of an open task; who is named anew ends another's claim.

        With `expected_version` only if the task has that version. Raises `UserTaskNotFound`, `UserTaskStateConflict`,
        `UserTaskVersionConflict`.
        """
        request = messages.UpdateUserTaskRequest(
            namespace=self._namespace,
            task_id=task_id,
            spec=_spell_all(options),
            update_mask=FieldMask(paths=[_FIELDS.get(name, name) for name in options]),
            expected_version=expected_version,
            request_id=uuid7(),
        )
        return (await self._caller.call(self._stub.UpdateUserTask, request)).user_task

    async def delete(self, task_id: str) -> bool:
        """Deletes a task; one that is open is cancelled. False if there was none."""
        request = messages.DeleteUserTaskRequest(namespace=self._namespace, task_id=task_id, request_id=uuid7())
        return (await self._caller.call(self._stub.DeleteUserTask, request)).deleted


def spell(options: UserTaskOptions, due: dt.datetime | None = None, signal_name: str = "") -> messages.UserTaskSpec:
    """Spells what a task asks for. Raises `ValueError` for a time without a zone."""
    return messages.UserTaskSpec(
        title=options.get("title", ""),
        description=options.get("description", ""),
        schema_type=options.get("schema_type", ""),
        assigned_role_id=options.get("role", ""),
        assigned_user_id=options.get("user", ""),
        assigned_group_id=options.get("group", ""),
        priority=messages.UserTaskPriority.Value(f"USER_TASK_PRIORITY_{options.get('priority', 'normal').upper()}"),
        due_time=timestamp(due),
        signal_name=signal_name,
    )


def _spell_all(options: DrivenTaskOptions) -> messages.UserTaskSpec:
    return spell(options, options.get("due"), options.get("signal_name", ""))


def status_name(status: int) -> str:
    """The name of a status, such as `PENDING`."""
    return messages.UserTaskStatus.Name(messages.UserTaskStatus.ValueType(status)).removeprefix("USER_TASK_STATUS_")


def priority_name(priority: int) -> str:
    """The name of a priority, such as `HIGH`."""
    value = messages.UserTaskPriority.ValueType(priority)
    return messages.UserTaskPriority.Name(value).removeprefix("USER_TASK_PRIORITY_")
