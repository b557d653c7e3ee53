"""UserTaskService."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc.aio

from stepwell.v1 import user_tasks_pb2, user_tasks_pb2_grpc
from stepwell_server import errors
from stepwell_server.api.fields import integer, optional_uuid, uuid
from stepwell_server.api.filters import position_of, read_filter, read_order
from stepwell_server.api.page import read_page
from stepwell_server.api.payloads import payload_from_proto
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_values import MESSAGE_MARGIN
from stepwell_server.api.stores import StoreCalls
from stepwell_server.api.user_task_values import mask_from_proto, spec_from_proto, task_to_proto
from stepwell_server.engine import user_tasks as engine
from stepwell_server.engine.user_tasks import TaskAnswer
from stepwell_server.errors import InvalidField
from stepwell_server.model.runs import RunRef
from stepwell_server.model.user_tasks import LISTED, UserTask
from stepwell_server.store import requests, runs, user_tasks
from stepwell_server.store.user_tasks import Inbox, InboxPlace, NewestPlace, TaskFilter

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from stepwell_server.engine.commands import Command
    from stepwell_server.store.user_tasks import WholeTask

    Context = grpc.aio.ServicerContext[Any, Any]

_TASK_BYTES = 2_048
_LARGEST_VERSION = 2**63 - 1


class UserTasks(StoreCalls, user_tasks_pb2_grpc.UserTaskServiceServicer):
    """Creates tasks for people, shows them, and records what people do."""

    async def CreateUserTask(
        self, request: user_tasks_pb2.CreateUserTaskRequest, context: Context
    ) -> user_tasks_pb2.CreateUserTaskResponse:
        command = engine.CreateUserTask(
            ref=await self._refs.read(request),
            step_name=self._fields.name(request.step_name, "step_name"),
            task_id=optional_uuid(request.task_id, "task_id"),
            spec=spec_from_proto(request.spec, self._fields),
            payload=payload_from_proto(request.spec.input, self._fields, "spec.input"),
            unless_active=request.unless_active,
            token=request.token,
        )
        answer = await self._do(TaskAnswer, command, request)
        return user_tasks_pb2.CreateUserTaskResponse(user_task=await self._shown(answer.task), created=answer.done)

    async def GetUserTask(
        self, request: user_tasks_pb2.GetUserTaskRequest, context: Context
    ) -> user_tasks_pb2.GetUserTaskResponse:
        _, task = await self._find(request)
        return user_tasks_pb2.GetUserTaskResponse(user_task=await self._shown(task))

    async def GetActiveUserTask(
        self, request: user_tasks_pb2.GetActiveUserTaskRequest, context: Context
    ) -> user_tasks_pb2.GetActiveUserTaskResponse:
        step_name = self._fields.name(request.step_name, "step_name")
        run = await self._seek(request)
        task = await user_tasks.active(self._database, run.run_key, step_name) if run is not None else None
        if task is None:
            return user_tasks_pb2.GetActiveUserTaskResponse(found=False)
        return user_tasks_pb2.GetActiveUserTaskResponse(found=True, user_task=await self._shown(task))

    async def ListUserTasks(
        self, request: user_tasks_pb2.ListUserTasksRequest, context: Context
    ) -> user_tasks_pb2.ListUserTasksResponse:
        where = read_filter(request.filter, LISTED, self._fields.limits)
        order = read_order(request.order_by, LISTED)
        place: type[Any] = position_of(order, LISTED, UUID) if order else NewestPlace
        page, space = read_page(request, place, self._fields.limits), await self._space(request)
        statuses = self._fields.items(request.statuses, "statuses")
        wanted = TaskFilter(
            namespace_id=space.namespace_id or 0,
            statuses=tuple(
                self._fields.member(each, user_tasks_pb2.UserTaskStatus, "statuses", required=True) for each in statuses
            ),
            run_key=await self._only_run(request),
            step_name=self._fields.text(request.step_name, "step_name"),
            assigned_role_id=self._fields.text(request.assigned_role_id, "assigned_role_id"),
            assigned_user_id=self._fields.text(request.assigned_user_id, "assigned_user_id"),
            assigned_group_id=self._fields.text(request.assigned_group_id, "assigned_group_id"),
            query=self._fields.text(request.query, "query"),
            where=where,
        )
        found = await user_tasks.page(self._database, wanted, order, page.after, page.size, self._most_bytes(page.size))
        token = page.token(user_tasks.place_of(found.tasks[-1].task, order)) if found.has_more else ""
        return user_tasks_pb2.ListUserTasksResponse(
            user_tasks=[task_to_proto(task, space.namespace) for task in found.tasks], next_page_token=token
        )

    async def ListInbox(
        self, request: user_tasks_pb2.ListInboxRequest, context: Context
    ) -> user_tasks_pb2.ListInboxResponse:
        role_ids = self._fields.names(request.role_ids, "role_ids")
        group_ids = self._fields.names(request.group_ids, "group_ids")
        user_id = self._fields.text(request.user_id, "user_id")
        if not (role_ids or group_ids or user_id):
            raise InvalidField(field="user_id", problem="is required, or else role_ids or group_ids")
        page, space = read_page(request, InboxPlace, self._fields.limits), await self._space(request)
        wanted = Inbox(space.namespace_id or 0, role_ids, user_id, group_ids)
        found = await user_tasks.inbox(self._database, wanted, page.after, page.size, self._most_bytes(page.size))
        token = page.token(user_tasks.inbox_place_of(found.tasks[-1].task)) if found.has_more else ""
        return user_tasks_pb2.ListInboxResponse(
            user_tasks=[task_to_proto(task, space.namespace) for task in found.tasks], next_page_token=token
        )

    async def UpdateUserTask(
        self, request: user_tasks_pb2.UpdateUserTaskRequest, context: Context
    ) -> user_tasks_pb2.UpdateUserTaskResponse:
        names = mask_from_proto(request.update_mask)
        spec = spec_from_proto(request.spec, self._fields)
        payload = payload_from_proto(request.spec.input, self._fields, "spec.input") if "input" in names else None
        version = integer(request.expected_version, "expected_version", at_most=_LARGEST_VERSION)
        command = engine.UpdateUserTask(*await self._place(request), spec, names - {"input"}, payload, version)
        return user_tasks_pb2.UpdateUserTaskResponse(user_task=await self._done(command, request))

    async def ClaimUserTask(
        self, request: user_tasks_pb2.ClaimUserTaskRequest, context: Context
    ) -> user_tasks_pb2.ClaimUserTaskResponse:
        user_id = self._fields.name(request.user_id, "user_id")
        command = engine.ClaimUserTask(*await self._place(request), user_id)
        return user_tasks_pb2.ClaimUserTaskResponse(user_task=await self._done(command, request))

    async def UnclaimUserTask(
        self, request: user_tasks_pb2.UnclaimUserTaskRequest, context: Context
    ) -> user_tasks_pb2.UnclaimUserTaskResponse:
        user_id = self._fields.text(request.user_id, "user_id")
        command = engine.UnclaimUserTask(*await self._place(request), user_id)
        return user_tasks_pb2.UnclaimUserTaskResponse(user_task=await self._done(command, request))

    async def CompleteUserTask(
        self, request: user_tasks_pb2.CompleteUserTaskRequest, context: Context
    ) -> user_tasks_pb2.CompleteUserTaskResponse:
        user_id = self._fields.name(request.user_id, "user_id")
        output = payload_from_proto(request.output, self._fields, "output")
        command = engine.CompleteUserTask(*await self._place(request), user_id, output)
        return user_tasks_pb2.CompleteUserTaskResponse(user_task=await self._done(command, request))

    async def CancelUserTask(
        self, request: user_tasks_pb2.CancelUserTaskRequest, context: Context
    ) -> user_tasks_pb2.CancelUserTaskResponse:
        reason = self._fields.remark(request.reason, "reason")
        command = engine.CancelUserTask(*await self._place(request), reason)
        return user_tasks_pb2.CancelUserTaskResponse(user_task=await self._done(command, request))

    async def CancelRunUserTasks(
        self, request: user_tasks_pb2.CancelRunUserTasksRequest, context: Context
    ) -> user_tasks_pb2.CancelRunUserTasksResponse:
        reason = self._fields.remark(request.reason, "reason")
        command = engine.CancelRunUserTasks(await self._refs.read(request), reason)
        count = await self._do(int, command, request)
        return user_tasks_pb2.CancelRunUserTasksResponse(cancelled_count=count)

    async def DeleteUserTask(
        self, request: user_tasks_pb2.DeleteUserTaskRequest, context: Context
    ) -> user_tasks_pb2.DeleteUserTaskResponse:
        space, task_id = await self._space(request), uuid(request.task_id, "task_id")
        task = await user_tasks.find(self._database, space.namespace_id or 0, task_id)
        if task is None:
            return user_tasks_pb2.DeleteUserTaskResponse(deleted=await self._was_deleted(request, space))
        command = engine.DeleteUserTask(_within(space, task), task.ordinal)
        return user_tasks_pb2.DeleteUserTaskResponse(deleted=await self._do(bool, command, request))

    # --- what they share --------------------------------------------------------------------------------------------

    async def _find(self, request: Any) -> tuple[RunRef, UserTask]:  # noqa: ANN401 - any request about one task
        """The task that a request is about, and its run. Refuses with USER_TASK_NOT_FOUND."""
        space, task_id = await self._space(request), uuid(request.task_id, "task_id")
        task = await user_tasks.find(self._database, space.namespace_id or 0, task_id)
        if task is None:
            raise errors.UserTaskNotFound(task_id=task_id)
        return _within(space, task), task

    async def _place(self, request: Any) -> tuple[RunRef, int, UUID]:  # noqa: ANN401 - as `_find`
        """The run, ordinal and id of that task, which the same commit may be about to make. Refuses as `_find`."""
        task_id = uuid(request.task_id, "task_id")
        for earlier in self._earlier:
            if not isinstance(earlier, user_tasks_pb2.CreateUserTaskRequest):
                continue
            if optional_uuid(earlier.task_id, "task_id") == task_id:
                return await self._refs.read(earlier), engine.NEW_TASK, task_id
        ref, task = await self._find(request)
        return ref, task.ordinal, task.task_id

    async def _was_deleted(self, request: Message, space: RunRef) -> bool:
        """Whether a repeat of a deletion is answered as the first was."""
        asked = asked_of(request, space.namespace_id, bool, self._fields)
        async with self._database.pool.begin() as connection:
            return bool(await requests.recall(connection, asked))

    async def _only_run(self, request: user_tasks_pb2.ListUserTasksRequest) -> int | None:
        """The key of the run whose tasks are wanted, 0 if there is no such run, None if none is named."""
        if not (request.run_id or request.workflow_id):
            return None
        run = await runs.seek(self._database, await self._refs.read(request))
        return run.run_key if run is not None else 0

    async def _done(self, command: Command, request: Message) -> user_tasks_pb2.UserTask:
        return await self._shown((await self._do(TaskAnswer, command, request)).task)

    async def _shown(self, task: UserTask) -> user_tasks_pb2.UserTask:
        found: WholeTask = await user_tasks.whole(self._database, task)
        return task_to_proto(found, await self._namespaces.name_of(task.namespace_id))

    def _most_bytes(self, count: int) -> int:
        return self._fields.limits.message_bytes - MESSAGE_MARGIN - count * _TASK_BYTES


def _within(space: RunRef, task: UserTask) -> RunRef:
    return RunRef(space.namespace_id, space.namespace, run_key=task.run_key)
