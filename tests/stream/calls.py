"""A worker by calls alone."""

from __future__ import annotations

from typing import Any

from tests.stream.code import Code
from tests.stream.kit import SECONDS, Replica, hello

from stepwell.v1 import workers_pb2
from stepwell.v1.workers_pb2 import Report, Task


class Caller:
    """A session, and what is said in its name."""

    def __init__(self, one: Replica, session_id: str) -> None:
        self.stub = one.workers
        self.session_id = session_id

    @classmethod
    async def of(cls, one: Replica, worker_id: str = "unary", **fields: Any) -> Caller:
        request = workers_pb2.OpenSessionRequest(hello=hello(worker_id, **fields))
        return cls(one, (await one.workers.OpenSession(request, timeout=SECONDS)).welcome.session_id)

    async def claim(self, wait: float = 5.0, **fields: Any) -> list[Task]:
        request = workers_pb2.ClaimTasksRequest(session_id=self.session_id, **fields)
        request.wait.FromMilliseconds(int(wait * 1000))
        return list((await self.stub.ClaimTasks(request, timeout=SECONDS)).tasks)

    async def report(self, ref: Any, **outcome: Any) -> workers_pb2.ReportResult:
        reports = [Report(correlation=1, ref=ref, **outcome)]
        request = workers_pb2.ReportTasksRequest(session_id=self.session_id, reports=reports)
        answer: workers_pb2.ReportTasksResponse = await self.stub.ReportTasks(request, timeout=SECONDS)
        return answer.results[0]

    async def beat(self, *beats: workers_pb2.TaskHeartbeat) -> Any:
        request = workers_pb2.HeartbeatTasksRequest(session_id=self.session_id, heartbeats=beats)
        return await self.stub.HeartbeatTasks(request, timeout=SECONDS)


class ByCalls:
    """Lets a run's code report by calls."""

    def __init__(self, caller: Caller) -> None:
        self.report = caller.report
        self.working: dict[str, Task] = {}


def code_of(caller: Caller, task: Task) -> Code:
    stream: Any = ByCalls(caller)
    return Code(stream, task)
