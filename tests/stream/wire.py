"""One stream of a worker by hand: what it says, and what it hears, kept until somebody wants it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from tests.service import reason_of
from tests.stream.kit import ACTIVITY, RUN, SECONDS, Replica, hello, payload

from stepwell.v1 import (
    workers_pb2,
)
from stepwell.v1.workers_pb2 import ConnectRequest, ConnectResponse, ReportResult, Task, TaskRef


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
        self._completes: dict[int, str] = {}
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
        # What is answered makes room for what is assigned in the same message, or before the test gets its turn.
        for result in message.results:
            self.working.pop(self._completes.pop(result.correlation, ""), None)
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
        self._completes[self._correlation + 1] = task.ref.task_id
        return await self.report(task.ref, complete=workers_pb2.CompleteActivity(result=payload(value)))

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
