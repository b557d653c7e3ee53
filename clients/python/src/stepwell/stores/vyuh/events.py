"""Vyuh's `WorkflowEventRepository`: what an engine notes of its instances."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stepwell.reasons import RunNotFound, UserTaskNotFound
from stepwell.stores._connection import Store, payload_of, stamp, time_of, value_of
from stepwell.v1 import event_store_pb2 as events
from stepwell.v1 import retention_pb2, user_tasks_pb2
from stepwell.v1.event_store_pb2_grpc import EventStoreStub
from stepwell.v1.history_pb2 import EVENT_ORIGIN_CALLER
from stepwell.v1.retention_pb2_grpc import RetentionServiceStub
from stepwell.v1.user_tasks_pb2_grpc import UserTaskServiceStub

if TYPE_CHECKING:
    from stepwell.v1.event_store_pb2_grpc import EventStoreAsyncStub
    from stepwell.v1.history_pb2 import Event
    from stepwell.v1.retention_pb2_grpc import RetentionServiceAsyncStub
    from stepwell.v1.user_tasks_pb2_grpc import UserTaskServiceAsyncStub

_NOW = dt.datetime.fromtimestamp(0, dt.UTC)
_ATTRIBUTES = {"nodeId": "node", "tokenId": "token", "taskId": "task", "userId": "actor"}
SUMMARY = (
    "workflowStarted",
    "workflowPaused",
    "workflowResumed",
    "workflowCompleted",
    "workflowFailed",
    "workflowCancelled",
    "userTaskCreated",
    "userTaskCompleted",
    "userTaskCancelled",
    "signalReceived",
    "error",
)
"""The types of the key events, of which `getSummary` tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowEvent:
    """Something that happened to an instance. `id` and `createdAt` are given when it is appended."""

    id: str = ""
    workflowInstanceId: str
    eventType: str
    nodeId: str | None = None
    tokenId: str | None = None
    taskId: str | None = None
    userId: str | None = None
    data: dict[str, Any] | None = None
    createdAt: dt.datetime = _NOW


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowEventQuery:
    """Which events of one instance: all that is given must hold. `since` is inclusive, `until` is not."""

    workflowInstanceId: str
    eventTypes: Sequence[str] = ()
    nodeId: str | None = None
    tokenId: str | None = None
    taskId: str | None = None
    userId: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    limit: int | None = None
    offset: int = 0
    descending: bool = False


class WorkflowEventRepository(Store):
    """The audit trail. Events are in the order of their appending; an instance is found by its `workflow_id`."""

    @property
    def _stub(self) -> EventStoreAsyncStub:
        return EventStoreStub(self.channel)

    @property
    def _retention(self) -> RetentionServiceAsyncStub:
        return RetentionServiceStub(self.channel)

    @property
    def _tasks(self) -> UserTaskServiceAsyncStub:
        return UserTaskServiceStub(self.channel)

    async def append(self, event: WorkflowEvent) -> WorkflowEvent:
        """Appends an event; `data` may be as large as a payload.

        Differs: the id and the time are the service's own: ids count on without gaps, and times are those of one clock.
        Raises `RunNotFound`, `RunTerminal`.
        """
        request = events.AppendEventRequest(
            namespace=self.namespace,
            workflow_id=event.workflowInstanceId,
            type=event.eventType,
            payload=payload_of(event.data),
            attributes=_attributes(event),
        )
        return _as_appended(event, await self.call(self._stub.AppendEvent, request))

    async def appendAll(self, events_: Sequence[WorkflowEvent]) -> list[WorkflowEvent]:
        """Appends events, all or none.

        Differs: all of one instance, since a change is of one run; for several there is `transaction`, and in it a call
        for each instance. Raises `ValueError` otherwise.
        """
        if len({event.workflowInstanceId for event in events_}) > 1:
            raise ValueError("events of several instances: append each one's by a call of its own, in a transaction")
        if not events_:
            return []
        made = events.AppendEventsRequest.NewEvent
        request = events.AppendEventsRequest(
            namespace=self.namespace,
            workflow_id=events_[0].workflowInstanceId,
            events=[
                made(type=each.eventType, payload=payload_of(each.data), attributes=_attributes(each))
                for each in events_
            ],
        )
        appended = (await self.call(self._stub.AppendEvents, request)).events
        return [_as_appended(event, answer) for event, answer in zip(events_, appended, strict=True)]

    async def getById(self, id: str) -> WorkflowEvent | None:
        """The event, or `None`; an id that is no number is nobody's."""
        if not id.isdecimal():
            return None
        request = events.GetEventRequest(namespace=self.namespace, event_number=int(id))
        found = await self.call(self._stub.GetEvent, request)
        return _event(found.event, found.workflow_id) if found.HasField("event") else None

    async def getByWorkflowInstanceId(
        self,
        workflowInstanceId: str,
        *,
        eventTypes: Sequence[str] | None = None,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[WorkflowEvent]:
        """An instance's events, oldest first; none of an unknown one."""
        asked = WorkflowEventQuery(
            workflowInstanceId=workflowInstanceId, eventTypes=eventTypes or (), limit=limit, offset=offset or 0
        )
        return await self._read(asked)

    async def query(self, query: WorkflowEventQuery) -> list[WorkflowEvent]:
        """Events that fit.

        Differs: of one instance. The store does not say what a query names, and one through all histories has no bound.
        """
        return await self._read(query)

    async def getLatestByWorkflowInstanceId(self, workflowInstanceId: str) -> WorkflowEvent | None:
        """The instance's last event, or `None`."""
        asked = WorkflowEventQuery(workflowInstanceId=workflowInstanceId, limit=1, descending=True)
        return next(iter(await self._read(asked)), None)

    async def getByNodeId(self, workflowInstanceId: str, nodeId: str) -> list[WorkflowEvent]:
        """The events of an instance that name a node."""
        return await self._read(WorkflowEventQuery(workflowInstanceId=workflowInstanceId, nodeId=nodeId))

    async def getByTaskId(self, taskId: str) -> list[WorkflowEvent]:
        """The events that name a user task.

        Differs: the task tells which instance to look through, so that nothing is found of a task that is gone.
        """
        asked = user_tasks_pb2.GetUserTaskRequest(namespace=self.namespace, task_id=taskId)
        try:
            task = (await self.call(self._tasks.GetUserTask, asked)).user_task
        except UserTaskNotFound:
            return []
        return await self._read(WorkflowEventQuery(workflowInstanceId=task.workflow_id, taskId=taskId))

    async def getSummary(self, workflowInstanceId: str) -> list[WorkflowEvent]:
        """The instance's key events: those whose types are in `SUMMARY`, which the store does not name."""
        return await self._read(WorkflowEventQuery(workflowInstanceId=workflowInstanceId, eventTypes=SUMMARY))

    async def deleteByWorkflowInstanceId(self, workflowInstanceId: str) -> int:
        """Deletes the instance's events, and gives how many; what the service notes of the run itself stays."""
        request = events.DeleteEventsRequest(namespace=self.namespace, workflow_id=workflowInstanceId)
        try:
            return (await self.call(self._stub.DeleteEvents, request)).count
        except RunNotFound:
            return 0

    async def pruneOlderThan(self, cutoff: dt.datetime) -> int:
        """Deletes events that were appended before a time, whatever became of their instances, and gives how many."""
        request = retention_pb2.PruneEventsRequest(
            namespace=self.namespace, cutoff=stamp(cutoff), scope=retention_pb2.PruneEventsRequest.SCOPE_CALLERS
        )
        count = 0
        while True:
            pruned = await self.call(self._retention.PruneEvents, request)
            count += pruned.count
            if not pruned.next_page_token:
                return count
            request.page_token = pruned.next_page_token

    async def _read(self, asked: WorkflowEventQuery) -> list[WorkflowEvent]:
        request = events.ReadEventsRequest(
            namespace=self.namespace,
            workflow_id=asked.workflowInstanceId,
            descending=asked.descending,
            origin=EVENT_ORIGIN_CALLER,
            filter=_filter(asked),
            attributes=_attributes(asked),
        )
        found = await self.window(self._stub.ReadEvents, request, "events", limit=asked.limit, offset=asked.offset)
        return [_event(event, asked.workflowInstanceId) for event in found]


def _attributes(given: WorkflowEvent | WorkflowEventQuery) -> dict[str, str]:
    found = {name: getattr(given, field) for field, name in _ATTRIBUTES.items()}
    return {name: value for name, value in found.items() if value is not None}


def _filter(asked: WorkflowEventQuery) -> str:
    types = " OR ".join(f"type = {_quoted(each)}" for each in asked.eventTypes)
    times = [f'time {op} "{each.isoformat()}"' for op, each in ((">=", asked.since), ("<", asked.until)) if each]
    return " AND ".join([*([f"({types})"] if types else []), *times])


def _quoted(text: str) -> str:
    r"""Text in quotes, of which a star at the end is no pattern."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped[:-1]}\\*"' if escaped.endswith("*") else f'"{escaped}"'


def _as_appended(event: WorkflowEvent, answer: events.AppendEventResponse) -> WorkflowEvent:
    return replace(event, id=str(answer.event_number), createdAt=answer.time.ToDatetime(dt.UTC))


def _event(event: Event, workflow_id: str) -> WorkflowEvent:
    named = {field: event.attributes.get(name) for field, name in _ATTRIBUTES.items()}
    return WorkflowEvent(
        id=str(event.event_number),
        workflowInstanceId=workflow_id,
        eventType=event.type,
        data=value_of(event.payload) if event.HasField("payload") else None,
        createdAt=time_of(event, "time") or _NOW,
        **named,
    )
