"""What tests of workflows need: a server of their own, whose clock they move. A month's sleep takes no time.

    async with TestServer() as server:
        handle = await server.client.start_run(reminder, "Ada", task_queue="q")
        async with server.worker("q", workflows=[reminder]):
            await server.suspended(handle)
            await server.advance(timedelta(days=30))
            assert await handle.result() == "reminded"

Needs `stepwell-server[embedded]` in the same environment; nothing of it is imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc.aio

from stepwell._servers import free_port, make_folder, server_program
from stepwell.client import Client
from stepwell.errors import StepwellError
from stepwell.policies import Seconds, duration
from stepwell.runs import RunHandle
from stepwell.v1 import clock_pb2, types_pb2
from stepwell.v1.clock_pb2_grpc import ClockServiceStub
from stepwell.worker import Worker

_STARTING_SECONDS = 60.0
_LEAVING_SECONDS = 10.0


class TestServer:
    """A server with its own Postgres in a temporary folder, and a clock that stands still for nobody but you.

    `address` and `client` are there once it is entered. Raises `RuntimeError` if it does not start in 60 s.
    """

    __test__ = False

    def __init__(self, *, namespace: str = "main") -> None:
        """Prepares a server; entering starts it. `namespace` is the client's, and is not made."""
        self._namespace = namespace
        self._folder = Path()
        self._process: asyncio.subprocess.Process | None = None
        self.address = ""
        self.client: Client
        self._channel: grpc.aio.Channel

    async def __aenter__(self) -> Self:
        """Starts the server and connects a client."""
        self._folder = await asyncio.to_thread(make_folder)
        self.address = f"127.0.0.1:{free_port()}"
        port = self.address.rpartition(":")[2]
        self._process = await asyncio.create_subprocess_exec(
            server_program(),
            "dev",
            "--test-clock",
            "--port",
            port,
            "--data-dir",
            str(self._folder / "data"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self.client = await self._connected()
        self._channel = self.client.open_channel()
        return self

    async def _connected(self) -> Client:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _STARTING_SECONDS
        while loop.time() < deadline:
            if self._process is not None and self._process.returncode is not None:
                break
            with contextlib.suppress(StepwellError, TimeoutError, OSError):
                return await Client.connect(self.address, namespace=self._namespace, connect_timeout=1.0)
            await asyncio.sleep(0.05)
        await self._end()
        raise RuntimeError("stepwell-server did not start: try `stepwell-server dev --test-clock` by hand")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the server and forgets its data."""
        await self._channel.close()
        await self.client.close()
        await self._end()

    async def _end(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _LEAVING_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def worker(
        self,
        task_queue: str,
        *,
        workflows: Sequence[Callable[..., Any]] = (),
        activities: Sequence[Callable[..., Any]] = (),
    ) -> AsyncIterator[Worker]:
        """A worker in this process, for as long as the block lasts."""
        worker = Worker(self.client, task_queue, workflows=workflows, activities=activities, drain_seconds=1.0)
        working = asyncio.create_task(worker.run())
        try:
            await worker.is_connected.wait()
            yield worker
        finally:
            worker.shutdown()
            await working

    async def suspended(self, handle: RunHandle[Any], seconds: float = 10.0) -> None:
        """Waits until a run's code can't go on by itself. Raises `TimeoutError` if it still can after `seconds`."""
        async with asyncio.timeout(seconds):
            while (await handle.describe()).phase != types_pb2.RUN_PHASE_SUSPENDED:  # noqa: ASYNC110 - the run is remote
                await asyncio.sleep(0.02)

    async def now(self) -> dt.datetime:
        """What the service takes for now."""
        response: clock_pb2.GetClockResponse = await self._clock.GetClock(clock_pb2.GetClockRequest())
        return response.time.ToDatetime(dt.UTC)

    async def advance(self, by: Seconds) -> dt.datetime:
        """Moves the clock forward and gives the new time. What is due by then happens at once; sessions live on."""
        request = clock_pb2.AdvanceClockRequest(by=duration(by))
        response: clock_pb2.AdvanceClockResponse = await self._clock.AdvanceClock(request)
        return response.time.ToDatetime(dt.UTC)

    @property
    def _clock(self) -> Any:  # noqa: ANN401 - the stub of the asynchronous channel
        return ClockServiceStub(self._channel)
