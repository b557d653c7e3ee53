"""Processes to kill, connections to cut, and the invariants that must hold whatever was killed and cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

from tests.chaos import worker

from stepwell import Client, JobHandle, RunHandle, StepwellError

TERMS = {
    "REQUIRE_KEYS": "false",
    "SESSION_SECONDS": "3",
    "HEARTBEAT_SECONDS": "0.5",
    "ACK_SECONDS": "1",
    "EXPIRY_POLL_SECONDS": "0.3",
    "RECONNECT_SECONDS_MAXIMUM": "0.5",
    "SCHEMA_CHECK_SECONDS": "0.5",
    "LOG_LEVEL": "info",
}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A process of ours, whose output goes to a file."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    @classmethod
    async def start(cls, log: Path, *command: str, **variables: str) -> Process:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("STEPWELL_", "OTEL_"))}
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *command, env=environment | variables, stdout=out, stderr=out
            )
        return cls(process, log)

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def kill(self) -> None:
        """As a power cut would."""
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def end(self) -> None:
        """In order if it can, else not."""
        if self.process.returncode is None:
            self.send(signal.SIGCONT)
            self.process.terminate()
            try:
                async with asyncio.timeout(8):
                    await self.process.wait()
            except TimeoutError:
                await self.kill()


class Stage:
    """Servers and workers on one database."""

    def __init__(self, folder: Path, database_url: str, hold_seconds: float) -> None:
        self.folder = folder
        self.database_url = database_url
        self.effects = folder / "effects.jsonl"
        self.processes: list[Process] = []
        self._hold = hold_seconds

    async def server(self, port: int, url: str | None = None, **terms: str) -> Process:
        """A replica."""
        settings = TERMS | {"DATABASE_URL": url or self.database_url} | terms
        variables = {f"STEPWELL_{name}": value for name, value in settings.items()}
        command = ("-m", "stepwell_server.main", "serve", "--port", str(port))
        started = await Process.start(self.folder / f"server-{port}.log", *command, **variables)
        self.processes.append(started)
        return started

    async def worker(self, address: str, **variables: str) -> Process:
        variables = {"CHAOS_EFFECTS": str(self.effects), "CHAOS_HOLD_SECONDS": str(self._hold)} | variables
        log = self.folder / f"worker-{len(self.processes)}.log"
        started = await Process.start(log, str(Path(worker.__file__)), address, **variables)
        self.processes.append(started)
        return started

    def done(self, kind: str | None = None) -> list[dict[str, Any]]:
        """What the workers have left behind."""
        if not self.effects.exists():
            return []
        # The last may be half written.
        whole = self.effects.read_text().rpartition("\n")[0]
        lines = [json.loads(line) for line in whole.splitlines()]
        return [line for line in lines if kind in (None, line["kind"])]

    async def more(self, count: int, seconds: float = 60.0) -> None:
        """Returns once the workers have done so much more."""
        goal = len(self.done()) + count
        await until(lambda: len(self.done()) >= goal, seconds)

    def caught(self, process: Process) -> bool:
        """Stops a worker. One that is not in the middle of its latest effect, beyond doubt, is let go again."""
        process.send(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        stopped = time.time()
        latest = max((line["time"] for line in self.done() if line["pid"] == process.pid), default=0.0)
        if stopped - latest < self._hold:
            return True
        process.send(signal.SIGCONT)
        return False

    async def close(self) -> None:
        await asyncio.gather(*(process.end() for process in self.processes))


@asynccontextmanager
async def stage(folder: Path, database_url: str, hold_seconds: float = 0.05) -> AsyncIterator[Stage]:
    made = Stage(folder, database_url, hold_seconds)
    try:
        yield made
    finally:
        await made.close()


async def connect(address: str) -> Client:
    """A client, once the server is there."""
    end = time.monotonic() + 60
    while True:
        try:
            client = await Client.connect(address, connect_timeout=2, call_timeout=60)
            assert [namespace async for namespace in client.list_namespaces()]
            return client
        except (StepwellError, OSError, TimeoutError):
            assert time.monotonic() < end, "the server does not come"
            await asyncio.sleep(0.05)


@asynccontextmanager
async def connected(*addresses: str) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(await connect(address)) for address in addresses]


async def until(holds: Callable[[], Any], seconds: float = 60.0) -> None:
    """Looks until it holds, at what another process does."""
    end = time.monotonic() + seconds
    while True:
        found = holds()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < end, "it did not come to hold"
        await asyncio.sleep(0.02)


async def start_errands(client: Client, count: int, activities: int) -> list[RunHandle[int]]:
    started = [client.start_run(worker.errand, activities, task_queue=worker.QUEUE) for _ in range(count)]
    return list(await asyncio.gather(*started))


async def results(handles: Iterable[RunHandle[Any] | JobHandle[Any]], seconds: float = 60.0) -> list[Any]:
    """Every run, and every job, ends."""
    async with asyncio.timeout(seconds):
        return list(await asyncio.gather(*(handle.result() for handle in handles)))


class Proxy:
    """Stands between two who talk over TCP. It can keep answers back, and cut connections."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.port = 0
        self.keeps_answers = False
        self.kept = asyncio.Event()
        self.cuts = 0
        self.on_request: Callable[[bytes, Link], Awaitable[bool]] | None = None
        self.links: set[Link] = set()
        self._server: asyncio.Server | None = None

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
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        link = Link(writer, back)
        link.port = back.get_extra_info("sockname")[1]
        self.links.add(link)
        try:
            await asyncio.gather(self._ask(reader, back, link), self._answer(there, writer, link))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            link.cut()
            self.links.discard(link)

    async def _ask(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter, link: Link) -> None:
        while data := await reader.read(65_536):
            if self.on_request is not None and not await self.on_request(data, link):
                break
            back.write(data)
            await back.drain()
        link.cut()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link) -> None:
        while data := await there.read(65_536):
            if link.on_answer is not None and not await link.on_answer():
                break
            if self.keeps_answers:
                self.kept.set()
                continue
            writer.write(data)
            await writer.drain()
        link.cut()


class Link:
    """One connection through the proxy. `on_answer` is asked for each answer; if it says no, the connection ends."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self._writers = writers
        self.on_answer: Callable[[], Awaitable[bool]] | None = None
        self.port = 0  # from which the proxy reaches the target

    def cut(self) -> None:
        for writer in self._writers:
            with contextlib.suppress(OSError, RuntimeError):
                writer.transport.abort()
