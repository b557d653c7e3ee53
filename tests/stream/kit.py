"""A worker by hand: the protocol's messages over a bare gRPC channel, and a replica with short terms to talk to."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from tests.service import reason_of

from stepwell.v1 import (
    history_pb2,
    history_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    namespaces_pb2,
    namespaces_pb2_grpc,
    runs_pb2,
    runs_pb2_grpc,
    topics_pb2,
    topics_pb2_grpc,
    types_pb2,
    workers_pb2,
    workers_pb2_grpc,
)
from stepwell.v1.workers_pb2 import ReportResult
from stepwell_server.service import Service
from stepwell_server.settings import Settings

RUN, ACTIVITY = workers_pb2.TASK_KIND_RUN, workers_pb2.TASK_KIND_ACTIVITY


ACCEPTED, DUPLICATE = ReportResult.STATUS_ACCEPTED, ReportResult.STATUS_DUPLICATE


REFUSED = ReportResult.STATUS_REFUSED


SECONDS = 60.0

# How many wait for a lock of the connection that asks. What pg_stat_activity shows stays the same throughout a
# transaction, and tells of others who wait for each other.
BLOCKED = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"


SHORT = {
    "session_seconds": 2.0,
    "heartbeat_seconds": 0.5,
    "ack_seconds": 0.5,
    "ping_seconds": 5.0,
    "expiry_poll_seconds": 0.2,
    "timer_poll_seconds": 0.2,
    "dispatch_poll_seconds": 0.2,
    "mail_poll_seconds": 0.2,
    "shutdown_seconds": 1.0,
    "log_level": "warning",
}


def payload(value: Any) -> types_pb2.Payload:
    return types_pb2.Payload(json=json.dumps(value))


class Replica:
    """A whole server in this process, and stubs to it."""

    def __init__(self, service: Service, channel: grpc.aio.Channel) -> None:
        self.service = service
        self.channel = channel
        self.workers: Any = workers_pb2_grpc.WorkerServiceStub(channel)
        self.runs: Any = runs_pb2_grpc.RunServiceStub(channel)
        self.jobs: Any = jobs_pb2_grpc.JobServiceStub(channel)
        self.history: Any = history_pb2_grpc.HistoryServiceStub(channel)
        self.topics: Any = topics_pb2_grpc.TopicServiceStub(channel)
        self.namespaces: Any = namespaces_pb2_grpc.NamespaceServiceStub(channel)

    async def start(self, type_: str = "wf", queue: str = "q", **fields: Any) -> str:
        request = runs_pb2.StartRunRequest(type=type_, task_queue=queue, **fields)
        return str((await self.runs.StartRun(request, timeout=SECONDS)).run_id)

    async def start_many(self, count: int, type_: str = "wf", queue: str = "q") -> list[str]:
        started = [runs_pb2.StartRunRequest(type=type_, task_queue=queue) for _ in range(count)]
        answer = await self.runs.BatchStartRuns(runs_pb2.BatchStartRunsRequest(requests=started), timeout=SECONDS)
        return [each.started.run_id for each in answer.results]

    async def start_job(self, type_: str = "act", queue: str = "q", **fields: Any) -> str:
        request = jobs_pb2.StartJobRequest(type=type_, task_queue=queue, **fields)
        return str((await self.jobs.StartJob(request, timeout=SECONDS)).job_id)

    async def job(self, job_id: str) -> Any:
        return (await self.jobs.GetJob(jobs_pb2.GetJobRequest(job_id=job_id), timeout=SECONDS)).job

    async def cancel_job(self, job_id: str, reason: str = "test") -> None:
        request = jobs_pb2.CancelJobRequest(job_id=job_id, reason=reason)
        assert (await self.jobs.CancelJob(request, timeout=SECONDS)).accepted

    async def job_end(self, job_id: str) -> Any:
        """The job once it has ended."""
        request = jobs_pb2.WaitJobRequest(job_id=job_id)
        response = await self.jobs.WaitJob(request, timeout=2 * SECONDS)
        assert response.ended
        return response.job

    async def run(self, run_id: str) -> Any:
        return (await self.runs.GetRun(runs_pb2.GetRunRequest(run_id=run_id), timeout=SECONDS)).run

    async def signal(self, run_id: str, name: str, value: Any = None) -> None:
        request = runs_pb2.SignalRunRequest(run_id=run_id, signal_name=name, payload=payload(value))
        await self.runs.SignalRun(request, timeout=SECONDS)

    async def publish(self, topic: str, value: Any = None, retain: float = 0.0, **fields: Any) -> Any:
        request = topics_pb2.PublishEventRequest(topic=topic, payload=payload(value), **fields)
        if retain:
            request.retain.FromMilliseconds(int(retain * 1000))
        return await self.topics.PublishEvent(request, timeout=SECONDS)

    async def query(self, run_id: str, name: str = "progress", wait: float = 5.0, **fields: Any) -> Any:
        request = runs_pb2.QueryRunRequest(run_id=run_id, query_name=name, **fields)
        request.wait.FromMilliseconds(int(wait * 1000))
        return await self.runs.QueryRun(request, timeout=SECONDS)

    async def update(self, run_id: str, update_id: str = "", wait: float = 10.0, **fields: Any) -> Any:
        fields = {"update_name": "add", "input": payload(1), **fields}
        request = runs_pb2.UpdateRunRequest(run_id=run_id, update_id=update_id, **fields)
        request.wait.FromMilliseconds(int(wait * 1000))
        return await self.runs.UpdateRun(request, timeout=SECONDS)

    async def end(self, run_id: str) -> None:
        request = runs_pb2.TerminateRunRequest(run_id=run_id, reason="test")
        assert (await self.runs.TerminateRun(request, timeout=SECONDS)).accepted

    async def cancel(self, run_id: str, reason: str = "test") -> None:
        request = runs_pb2.CancelRunRequest(run_id=run_id, reason=reason)
        assert (await self.runs.CancelRun(request, timeout=SECONDS)).accepted

    async def events(self, run_id: str) -> list[history_pb2.Event]:
        request = history_pb2.ListEventsRequest(run_id=run_id, page_size=1000)
        events: list[history_pb2.Event] = []
        while True:
            page = await self.history.ListEvents(request, timeout=SECONDS)
            events += page.events
            if not page.next_page_token:
                return events
            request.page_token = page.next_page_token

    async def count(self, run_id: str, type_: str) -> int:
        """How many events of a type the run has; its history has no gaps, whenever it is looked at."""
        events = await self.events(run_id)
        assert [each.number for each in events] == list(range(1, len(events) + 1))
        return sum(each.type == type_ for each in events)

    async def namespace(self, name: str) -> str:
        await self.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace=name), timeout=SECONDS)
        return name

    async def eventually(self, run_id: str, type_: str, count: int = 1) -> None:
        """Returns once history has so many events of a type."""
        await until(lambda: self.count(run_id, type_), lambda found: found >= count)

    async def waiting(self) -> int:
        """How many tasks wait in the table."""
        async with self.service.dispatcher.reader.connection() as connection:
            found: int = await connection.raw.fetchval("SELECT count(*) FROM tasks")
            return found


@asynccontextmanager
async def replica(database_url: str, **settings: Any) -> AsyncIterator[Replica]:
    """A replica on a database, which leads already, so that sessions expire in their time."""
    chosen = Settings(**{"database_url": database_url, "port": 0, **SHORT, **settings})
    async with Service(chosen) as service, grpc.aio.insecure_channel(service.address) as channel:
        yield Replica(service, channel)


async def until(look: Callable[[], Any], holds: Callable[[Any], bool] = bool, seconds: float = SECONDS) -> Any:
    """Looks again until it holds, for what is told nobody."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if asyncio.iscoroutine(found):
            found = await found
        if holds(found):
            return found
        assert time.monotonic() < end, f"still {found!r}"
        await asyncio.sleep(0.02)


def capacity(runs: int = 0, activities: int = 0, resident: int = 100, queue: str = "") -> workers_pb2.CapacityUpdate:
    return workers_pb2.CapacityUpdate(
        capacities=[
            workers_pb2.Capacity(kind=RUN, task_queue=queue, max_outstanding=runs, max_resident=resident),
            workers_pb2.Capacity(kind=ACTIVITY, task_queue=queue, max_outstanding=activities),
        ]
    )


def hello(worker_id: str = "raw", **fields: Any) -> workers_pb2.Hello:
    told = {"task_queues": ["q"], "workflow_types": ["wf"], "activity_types": ["act"], "worker_id": worker_id}
    return workers_pb2.Hello(**(told | fields))


def error_reason(result: ReportResult) -> str:
    """Why a report was refused."""
    assert result.status == REFUSED
    return reason_of(result.error)
