"""Calling UserTaskService and its neighbours in tests: each call by its name and fields."""

from __future__ import annotations

import importlib
from typing import Any

from tests.api.stores import Channel, create, json
from tests.service import TIMEOUT

from stepwell.v1 import user_tasks_pb2, user_tasks_pb2_grpc

PENDING, CLAIMED, COMPLETED, CANCELLED = (
    user_tasks_pb2.USER_TASK_STATUS_PENDING,
    user_tasks_pb2.USER_TASK_STATUS_CLAIMED,
    user_tasks_pb2.USER_TASK_STATUS_COMPLETED,
    user_tasks_pb2.USER_TASK_STATUS_CANCELLED,
)
LOW, NORMAL, HIGH, URGENT = (
    user_tasks_pb2.USER_TASK_PRIORITY_LOW,
    user_tasks_pb2.USER_TASK_PRIORITY_NORMAL,
    user_tasks_pb2.USER_TASK_PRIORITY_HIGH,
    user_tasks_pb2.USER_TASK_PRIORITY_URGENT,
)
__all__ = [
    "CANCELLED",
    "CLAIMED",
    "COMPLETED",
    "HIGH",
    "LOW",
    "NORMAL",
    "PENDING",
    "URGENT",
    "People",
    "create",
    "json",
]


class People:
    """People at a replica: `people.call("ClaimUserTask", task_id=..., user_id=...)`."""

    def __init__(self, service: Channel) -> None:
        stub: Any = user_tasks_pb2_grpc.UserTaskServiceStub
        self._stub = stub(service.channel)

    async def call(self, method: str, **fields: Any) -> Any:
        request = getattr(user_tasks_pb2, f"{method}Request")(**fields)
        return await getattr(self._stub, method)(request, timeout=TIMEOUT)

    async def made(self, run_id: str, step_name: str = "approve", **spec: Any) -> Any:
        """A new task of a driven run."""
        return (await self.call("CreateUserTask", run_id=run_id, step_name=step_name, spec=spec)).user_task

    async def claimed(self, run_id: str, user_id: str = "ann", **spec: Any) -> Any:
        """A new task that somebody has."""
        task = await self.made(run_id, **spec)
        return (await self.call("ClaimUserTask", task_id=task.task_id, user_id=user_id)).user_task

    async def get(self, task_id: str) -> Any:
        return (await self.call("GetUserTask", task_id=task_id)).user_task

    async def pages(self, method: str, **fields: Any) -> list[Any]:
        """All pages of a list."""
        found: list[Any] = []
        token = ""
        while True:
            page = await self.call(method, page_token=token, **fields)
            found += page.user_tasks
            token = page.next_page_token
            if not token:
                return found


async def history(service: Channel, run_id: str) -> list[Any]:
    """A run's events."""
    messages = importlib.import_module("stepwell.v1.history_pb2")
    stubs = importlib.import_module("stepwell.v1.history_pb2_grpc")
    request = messages.ListEventsRequest(run_id=run_id, page_size=1_000)
    return list((await stubs.HistoryServiceStub(service.channel).ListEvents(request, timeout=TIMEOUT)).events)
