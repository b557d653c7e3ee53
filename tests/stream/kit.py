"""A worker by hand: the protocol's messages over a bare gRPC channel, and a replica with short terms to talk to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from tests.service import reason_of

from stepwell.v1 import (
    history_pb2,
    history_pb2_grpc,
    namespaces_pb2,
    namespaces_pb2_grpc,
    runs_pb2,
    runs_pb2_grpc,
    types_pb2,
    workers_pb2,
    workers_pb2_grpc,
)
from stepwell.v1.workers_pb2 import ConnectRequest, ConnectResponse, ReportResult, Task, TaskRef
from stepwell_server.engine.order import chain
from stepwell_server.service import Service
from stepwell_server.settings import Settings

RUN, ACTIVITY = workers_pb2.TASK_KIND_RUN, workers_pb2.TASK_KIND_ACTIVITY
ACCEPTED, DUPLICATE = ReportResult.STATUS_ACCEPTED, ReportResult.STATUS_DUPLICATE
REFUSED = ReportResult.STATUS_REFUSED
SECONDS = 15.0
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
        self.history: Any = history_pb2_grpc.HistoryServiceStub(channel)
        self.namespaces: Any = namespaces_pb2_grpc.NamespaceServiceStub(channel)

    async def start(self, type_: str = "wf", queue: str = "q", **fields: Any) -> str:
        request = runs_pb2.StartRunRequest(type=type_, task_queue=queue, **fields)
        return str((await self.runs.StartRun(request, timeout=SECONDS)).run_id)

    async def start_many(self, count: int, type_: str = "wf", queue: str = "q") -> list[str]:
        started = [runs_pb2.StartRunRequest(type=type_, task_queue=queue) for _ in range(count)]
        answer = await self.runs.BatchStartRuns(runs_pb2.BatchStartRunsRequest(requests=started), timeout=SECONDS)
        return [each.started.run_id for each in answer.results]

    async def run(self, run_id: str) -> Any:
        return (await self.runs.GetRun(runs_pb2.GetRunRequest(run_id=run_id), timeout=SECONDS)).run

    async def signal(self, run_id: str, name: str, value: Any = None) -> None:
        request = runs_pb2.SignalRunRequest(run_id=run_id, signal_name=name, payload=payload(value))
        await self.runs.SignalRun(request, timeout=SECONDS)

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


class Wire:
    """One stream. What comes in is kept by field until somebody wants it; `most` counts tasks held at once, by kind."""

    def __init__(self, replica: Replica, greeting: workers_pb2.Hello) -> None:
        self.replica = replica
        self.hello = greeting
        self.welcome = workers_pb2.Welcome()
        self.call: Any = replica.workers.Connect()
        self.got: dict[str, list[Any]] = {}
        self.working: dict[str, Task] = {}
        self.most: Counter[int] = Counter()
        self.ended: str | None = None
        self._news = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None
        self._living: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._correlation = 0
        self._pings = 0

    async def open(self, *, is_lively: bool = True) -> Wire:
        """Says hello. A lively worker shows now and then that it is there; another does so when it is told to."""
        await self.call.write(ConnectRequest(hello=self.hello))
        async with asyncio.timeout(SECONDS):
            first = await self.call.read()
        assert isinstance(first, ConnectResponse)
        assert first.HasField("welcome")
        self.welcome = first.welcome
        self._reader = asyncio.create_task(self._read())
        if is_lively:
            self._living = asyncio.create_task(self._live())
        return self

    async def _live(self) -> None:
        while self.ended is None:
            await asyncio.sleep(0.4)
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self.say()

    def freeze(self) -> None:
        """From here on it shows no life by itself."""
        if self._living is not None:
            self._living.cancel()

    async def _read(self) -> None:
        try:
            while isinstance(message := await self.call.read(), ConnectResponse):
                async with self._news:
                    self._take(message)
                    self._news.notify_all()
            code = (await self.call.code()).name
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        except asyncio.CancelledError:
            code = "CANCELLED"
        async with self._news:
            self.ended = code
            self._news.notify_all()

    def _take(self, message: ConnectResponse) -> None:
        for field, value in message.ListFields():
            items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            self.got.setdefault(field.name, []).extend(items)
        for task in message.assigns:
            self.working[task.ref.task_id] = task
        for revoke in message.revokes:
            held = self.working.get(revoke.ref.task_id)
            if held is not None and held.ref.token == revoke.ref.token:
                del self.working[revoke.ref.task_id]
        for kind in (RUN, ACTIVITY):
            held_now = sum(task.kind == kind for task in self.working.values())
            self.most[kind] = max(self.most[kind], held_now)

    # --- saying -----------------------------------------------------------------------------------------------------

    async def say(self, **fields: Any) -> None:
        async with self._writing:
            await self.call.write(ConnectRequest(**fields))

    async def ack(self, *tasks: Task) -> None:
        await self.say(acks=[task.ref for task in tasks])

    async def send(self, ref: TaskRef, **outcome: Any) -> int:
        """Sends a report and answers its correlation."""
        self._correlation += 1
        number = self._correlation
        await self.say(reports=[workers_pb2.Report(correlation=number, ref=ref, **outcome)])
        return number

    async def report(self, ref: TaskRef, **outcome: Any) -> ReportResult:
        """Sends a report and waits for its answer."""
        return await self.result(await self.send(ref, **outcome))

    async def complete(self, task: Task, value: Any = None) -> ReportResult:
        result = await self.report(task.ref, complete=workers_pb2.CompleteActivity(result=payload(value)))
        self.working.pop(task.ref.task_id, None)
        return result

    async def beat(self, task: Task, value: Any = None) -> workers_pb2.TaskHeartbeatResult:
        details = payload(value) if value is not None else None
        await self.say(heartbeats=[workers_pb2.TaskHeartbeat(ref=task.ref, details=details)])
        found: workers_pb2.TaskHeartbeatResult = await self.next("heartbeats", lambda beat: beat.ref == task.ref)
        return found

    # --- hearing ----------------------------------------------------------------------------------------------------

    async def next(self, field: str, wanted: Callable[[Any], bool] = lambda _: True, seconds: float = SECONDS) -> Any:
        """The next item of a field that is wanted."""
        async with asyncio.timeout(seconds), self._news:
            while True:
                items = self.got.get(field, [])
                for place, item in enumerate(items):
                    if wanted(item):
                        return items.pop(place)
                assert self.ended is None, f"the stream ended with {self.ended}; no {field}"
                await self._news.wait()

    async def result(self, correlation: int) -> ReportResult:
        found: ReportResult = await self.next("results", lambda result: result.correlation == correlation)
        return found

    async def task(self, kind: int | None = None, *, ack: bool = True, run_id: str = "") -> Task:
        """The next assignment, acknowledged."""
        found: Task = await self.next("assigns", lambda task: kind in (None, task.kind) and run_id in ("", task.run_id))
        if ack:
            await self.ack(found)
        return found

    async def settled(self) -> None:
        """Returns when all that was said before has been heard, and what followed from it at once is here."""
        self._pings += 1
        number = self._pings
        await self.say(ping=number)
        await self.next("pong", lambda pong: pong == number)

    async def end(self, seconds: float = SECONDS) -> str:
        """The status with which the service ended the stream."""
        async with asyncio.timeout(seconds), self._news:
            while self.ended is None:
                await self._news.wait()
            return self.ended

    async def reason(self) -> str:
        """The reason in the status with which the stream ended."""
        await self.end()
        trailers = dict(await self.call.trailing_metadata())
        return reason_of(types_status(trailers["grpc-status-details-bin"]))

    # --- leaving ----------------------------------------------------------------------------------------------------

    async def half_close(self) -> None:
        self.freeze()
        async with self._writing:
            await self.call.done_writing()

    async def cut(self) -> None:
        """Breaks the stream off, as a lost connection does."""
        self.freeze()
        self.call.cancel()
        if self._reader is not None:
            await asyncio.wait([self._reader])


def types_status(raw: bytes) -> Any:
    from google.rpc import status_pb2  # noqa: PLC0415 - it has no types

    return status_pb2.Status.FromString(raw)


@asynccontextmanager
async def wire(
    replica: Replica, worker_id: str = "raw", *, is_lively: bool = True, **fields: Any
) -> AsyncIterator[Wire]:
    """A stream that is open, and cut off at the end."""
    opened = await Wire(replica, hello(worker_id, **fields)).open(is_lively=is_lively)
    try:
        yield opened
    finally:
        await opened.cut()


class Code:
    """The code of one run, by hand: it counts its calls in the root branch, and progresses."""

    def __init__(self, stream: Wire, task: Task) -> None:
        self.stream = stream
        self.task = task
        self.count = 0
        self.hash = bytes(8)
        self.names: Counter[str] = Counter()

    def step(self, name: str, **kind: Any) -> workers_pb2.NewStep:
        step = workers_pb2.NewStep(name=name, occurrence=self.names[name], **kind)
        self.names[name] += 1
        return step

    def activity(self, name: str = "a", **fields: Any) -> workers_pb2.NewStep:
        return self.step(name, activity=workers_pb2.ActivityStep(**({"type": "act"} | fields)))

    def wait_for(self, signal: str) -> workers_pb2.NewStep:
        return self.step(f"wait {signal}", wait=workers_pb2.WaitStep(signal_name=signal))

    def timer(self, seconds: float) -> workers_pb2.NewStep:
        duration = Duration()
        duration.FromMilliseconds(int(seconds * 1000))
        return self.step("timer", timer=workers_pb2.TimerStep(duration=duration))

    def local(self, value: Any, name: str = "local") -> workers_pb2.NewStep:
        return self.step(name, local=workers_pb2.LocalStep(result=payload(value)))

    def progress(self, *steps: workers_pb2.NewStep, **fields: Any) -> workers_pb2.Progress:
        """A progress, and the branch moved on by it."""
        scope = workers_pb2.ScopeState(count=self.count, hash=self.hash)
        for step in steps:
            self.count += 1
            self.hash = chain(self.hash, KINDS[step.WhichOneof("kind") or ""], step.name)
        return workers_pb2.Progress(scopes=[scope], steps=steps, **fields)

    async def tell(self, *steps: workers_pb2.NewStep, **fields: Any) -> ReportResult:
        return await self.stream.report(self.task.ref, progress=self.progress(*steps, **fields))

    async def wait(self, *steps: workers_pb2.NewStep) -> ReportResult:
        """Progress after which nothing can go on; the run stays in memory, and takes no slot."""
        result = await self.tell(*steps, waiting=True)
        self.stream.working.pop(self.task.ref.task_id, None)
        return result

    async def complete(self, *steps: workers_pb2.NewStep, value: Any = None) -> ReportResult:
        result = await self.tell(*steps, complete=workers_pb2.CompleteRun(result=payload(value)))
        self.stream.working.pop(self.task.ref.task_id, None)
        return result

    async def advance(self, wanted: Callable[[Any], bool] = lambda _: True) -> workers_pb2.Advance:
        found: workers_pb2.Advance = await self.stream.next(
            "advances", lambda news: news.ref == self.task.ref and wanted(news)
        )
        return found


KINDS = {
    "local": types_pb2.STEP_KIND_LOCAL,
    "activity": types_pb2.STEP_KIND_ACTIVITY,
    "timer": types_pb2.STEP_KIND_TIMER,
    "wait": types_pb2.STEP_KIND_WAIT,
    "child": types_pb2.STEP_KIND_CHILD,
    "marker": types_pb2.STEP_KIND_MARKER,
}


async def scheduled(
    replica: Replica, count: int = 1, *, fields: Iterable[dict[str, Any]] | None = None, **of_all: Any
) -> str:
    """A run with activities that wait, or are under way; nobody holds the run itself."""
    each = list(fields) if fields is not None else [{} for _ in range(count)]
    queue = f"scheduling {uuid4()}"
    run_id = await replica.start(queue=queue)
    opening = hello("scheduler", task_queues=[queue], activity_types=[], capacity=capacity(runs=1))
    stream = await Wire(replica, opening).open()
    code = Code(stream, await stream.task(RUN))
    told = [code.activity(**({"task_queue": "q"} | of_all | more)) for more in each]
    together = max(1, min(256, 3_000_000 // max(step.ByteSize() for step in told)))
    for start in range(0, len(told), together):
        assert (await code.tell(*told[start : start + together])).status == ACCEPTED
    await stream.report(code.task.ref, release=workers_pb2.ReleaseTask(reason="scheduled"))
    await stream.say(drain=True)
    await stream.half_close()
    await stream.end()
    return run_id


def error_reason(result: ReportResult) -> str:
    """Why a report was refused."""
    assert result.status == REFUSED
    return reason_of(result.error)
