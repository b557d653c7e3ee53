"""Replicas as processes that come and go, a proxy before them, and what those who call them notice of it."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from tests.chaos.kit import Link, Process, Stage, free_port
from tests.chaos.worker import QUEUE, chore
from tests.replicas import worker

from stepwell import Client, StepwellError, _rpc

Answer = TypeVar("Answer")

ROOT = Path(__file__).resolve().parents[2]
SERVING = health_pb2.HealthCheckResponse.SERVING
# Whoever waits for a session to expire would not be done within any of these tests.
PATIENT = {
    "SESSION_SECONDS": "90",
    "HEARTBEAT_SECONDS": "2",
    "ACK_SECONDS": "20",
    "SHUTDOWN_SECONDS": "20",
    "LEADER_PROBE_SECONDS": "0.3",
}


class Balancer:
    """Spreads connections over replicas in turn, as a proxy does that knows nothing of gRPC."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.targets = list(ports)
        self.port = 0
        self.links: set[Link] = set()
        self._turn = itertools.count()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Breaks every connection off."""
        for link in list(self.links):
            link.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = await self._reach()
        if found is None:
            writer.transport.abort()
            return
        there, back = found
        link = Link(writer, back)
        self.links.add(link)
        try:
            await asyncio.gather(_copy(reader, back, link), _copy(there, writer, link))
        except OSError:
            pass
        finally:
            link.cut()
            self.links.discard(link)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """The next replica that takes a connection."""
        for _ in self.targets:
            port = self.targets[next(self._turn) % len(self.targets)]
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return None


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    link.cut()


async def serving(port: int, seconds: float = 60.0) -> None:
    """Returns once a replica says that it serves."""
    async with asyncio.timeout(seconds):
        while True:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                with suppress(grpc.aio.AioRpcError):
                    if (await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)).status == SERVING:
                        return
            await asyncio.sleep(0.05)


class Fleet:
    """Replicas at fixed ports."""

    def __init__(self, scene: Stage, count: int, **terms: str) -> None:
        self.ports = [free_port() for _ in range(count)]
        self._scene = scene
        self._terms = PATIENT | terms
        self._processes: dict[int, Process] = {}

    @property
    def address(self) -> str:
        """All of them, as one name that stands for several addresses."""
        return "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    async def start(self) -> None:
        await asyncio.gather(*(self.begin(place) for place in range(len(self.ports))))

    async def begin(self, place: int) -> None:
        """A replica at that place, ready."""
        port = self.ports[place]
        self._processes[place] = await self._scene.server(port, **self._terms)
        await serving(port)

    async def end(self, place: int) -> float:
        """Sends SIGTERM, and waits for its orderly end; answers how long that took."""
        process = self._processes.pop(place)
        began = time.monotonic()
        process.send(signal.SIGTERM)
        async with asyncio.timeout(float(self._terms["SHUTDOWN_SECONDS"]) + 5):
            assert await process.process.wait() == 0, process.log.read_text()[-2000:]
        return time.monotonic() - began

    async def restart(self, place: int) -> float:
        """Another takes its place, once it has ended."""
        seconds = await self.end(place)
        await self.begin(place)
        return seconds

    async def kill(self, place: int) -> None:
        await self._processes.pop(place).kill()


async def workers(scene: Stage, *addresses: str, **variables: str) -> list[Process]:
    """A worker process at each address."""
    started = []
    for number, address in enumerate(addresses):
        variables = {"CHAOS_EFFECTS": str(scene.effects), "CHAOS_HOLD_SECONDS": "0.05"} | variables
        log = scene.folder / f"worker-{len(scene.processes)}-{number}.log"
        path = {"PYTHONPATH": str(ROOT)} | variables
        process = await Process.start(log, str(Path(worker.__file__)), address, **path)
        scene.processes.append(process)
        started.append(process)
    return started


@dataclass
class Noticed:
    """What callers saw."""

    run_ids: list[str] = field(default_factory=list)
    job_ids: list[str] = field(default_factory=list)
    ended: int = 0
    repeats: int = 0
    errors: list[str] = field(default_factory=list)
    longest_call: float = 0.0
    longest_run: float = 0.0


class Callers:
    """Programs that start a run and a job, signal the run, wait for both, and begin again, until they are stopped."""

    def __init__(self, noticed: Noticed) -> None:
        self.noticed = noticed
        self._is_over = False
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, clients: Sequence[Client], each: int) -> None:
        for client in clients:
            self._tasks += [asyncio.create_task(self._call(client, number)) for number in range(each)]

    async def more(self, count: int, seconds: float = 60.0) -> None:
        """Returns once so many more runs have ended, or a caller has given up."""
        goal = self.noticed.ended + count
        async with asyncio.timeout(seconds):
            while self.noticed.ended < goal and not self.noticed.errors:  # noqa: ASYNC110 - a matter of many
                await asyncio.sleep(0.02)

    async def end(self, seconds: float = 60.0) -> None:
        """All that was begun is brought to its end."""
        self._is_over = True
        async with asyncio.timeout(seconds):
            await asyncio.gather(*self._tasks)
        self._tasks, self._is_over = [], False

    async def _call(self, client: Client, number: int) -> None:
        try:
            while not self._is_over:
                await self._errand(client, number)
        except (StepwellError, grpc.RpcError) as error:
            self.noticed.errors.append(repr(error))

    async def _errand(self, client: Client, number: int) -> None:
        seen = self.noticed
        began = time.monotonic()
        run = await self._timed(client.start_run(worker.order, 3, task_queue=QUEUE))
        seen.run_ids.append(run.run_id)
        job = await self._timed(client.start_job(chore, number, task_queue=QUEUE))
        seen.job_ids.append(job.job_id)
        await self._timed(run.signal("paid", number))
        assert await run.result() == worker.expected(3, number)
        assert await job.result() == number * number
        seen.longest_run = max(seen.longest_run, time.monotonic() - began)
        seen.ended += 1

    async def _timed(self, call: Awaitable[Answer]) -> Answer:
        began = time.monotonic()
        answer = await call
        self.noticed.longest_call = max(self.noticed.longest_call, time.monotonic() - began)
        return answer


@asynccontextmanager
async def calling(monkeypatch: pytest.MonkeyPatch, addresses: Sequence[str], each: int) -> AsyncIterator[Callers]:
    """Callers at these addresses, whose repeats of calls that failed are counted."""
    noticed = Noticed()
    backoff = _rpc.backoff

    def counted(attempt: int, error: StepwellError) -> float:
        noticed.repeats += 1
        return backoff(attempt, error)  # type: ignore[arg-type]

    monkeypatch.setattr(_rpc, "backoff", counted)
    clients = [await Client.connect(address) for address in addresses]
    callers = Callers(noticed)
    callers.begin(clients, each)
    try:
        yield callers
    finally:
        for client in clients:
            await client.close()
