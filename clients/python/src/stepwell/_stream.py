"""One stream of a worker's session, over a connection of its own: greeted, then read, written and watched."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc

from stepwell import errors, reasons
from stepwell.v1.workers_pb2 import ConnectRequest, ConnectResponse
from stepwell.v1.workers_pb2_grpc import WorkerServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell._outbox import Outbox
    from stepwell.v1.workers_pb2 import Hello

# Seconds.
WELCOME_TIMEOUT = 10.0
SILENCE_BEFORE_PING = 20.0
SILENCE_BEFORE_DEATH = 30.0
TICK = 1.0
_LAST_WORDS = 2.0


class Stream:
    """See the module. What it hears goes to `received`, what it says comes from the outbox."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        metadata: tuple[tuple[str, str], ...],
        outbox: Outbox,
        received: Callable[[ConnectResponse], None],
    ) -> None:
        """Opens the call; nothing is said yet."""
        self._channel = channel
        self._call = WorkerServiceStub(channel).Connect(metadata=metadata)
        self._outbox = outbox
        self._received = received
        self._tasks: list[asyncio.Task[None]] = []
        self._heard = self._said = time.monotonic()
        self._pings = 0

    async def greet(self, hello: Hello) -> ConnectResponse:
        """Says hello, and gives the message with the welcome. Raises `ServiceError`, `TimeoutError`."""
        try:
            async with asyncio.timeout(WELCOME_TIMEOUT):
                await self._call.write(ConnectRequest(hello=hello))
                message = await self._call.read()
        except grpc.RpcError as error:
            raise reasons.from_rpc(error) from None
        if not isinstance(message, ConnectResponse) or not message.HasField("welcome"):
            raise errors.Unavailable("the stream ended before the service said welcome")
        self._heard = self._said = time.monotonic()
        return message

    def start(self, heartbeat_interval: float) -> None:
        """Begins to read, to write and to watch."""
        self._tasks = [
            asyncio.create_task(self._read()),
            asyncio.create_task(self._write()),
            asyncio.create_task(self._watch(heartbeat_interval)),
        ]

    @property
    def has_ended(self) -> bool:
        """Whether it is of no use any more."""
        return any(task.done() for task in self._tasks)

    async def follow(self, left: asyncio.Event) -> None:
        """Waits until it is to be left. Raises `ServiceError` when it has ended before."""
        leaving = asyncio.create_task(left.wait())
        try:
            done, _ = await asyncio.wait((*self._tasks, leaving), return_when=asyncio.FIRST_COMPLETED)
            if leaving in done:
                return
            # The reader knows why the stream ended; the writer only that it did.
            reader, writer, _ = self._tasks
            await asyncio.wait((reader,), timeout=1.0 if writer in done else 0)
            for task in self._tasks:
                if task.done():
                    task.result()
            raise errors.Unavailable("the service ended the stream")
        except grpc.RpcError as error:
            raise reasons.from_rpc(error) from None
        finally:
            leaving.cancel()

    def hush(self) -> None:
        """Says and hears nothing more; what it has not said stays for the stream that follows."""
        for task in self._tasks:
            task.cancel()

    async def say_goodbye(self) -> None:
        """Half-closes, so that the service may end the session at once."""
        reader, writer, _ = self._tasks
        writer.cancel()
        await asyncio.wait((writer,))
        await self._call.done_writing()
        await asyncio.wait((reader,), timeout=_LAST_WORDS)

    async def close(self) -> None:
        """Ends the stream and its connection."""
        self.hush()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._call.cancel()
        await self._channel.close()

    async def _read(self) -> None:
        while True:
            message = await self._call.read()
            if not isinstance(message, ConnectResponse):
                return
            self._heard = time.monotonic()
            if message.ping:
                self._outbox.pong = message.ping
                self._outbox.wake()
            self._received(message)

    async def _write(self) -> None:
        outbox = self._outbox
        while True:
            await outbox.filled()
            message = outbox.take()
            self._said = time.monotonic()
            await self._call.write(message)

    async def _watch(self, heartbeat_interval: float) -> None:
        """Shows life, asks for it, and gives a silent stream up."""
        tick = min(TICK, heartbeat_interval / 4)
        before = time.monotonic()
        while True:
            await asyncio.sleep(tick)
            now = time.monotonic()
            if now - before > tick + 5.0:
                # This process itself was held up: what came meanwhile is yet to be read.
                self._heard = now
            before = now
            silence = now - self._heard
            if silence > SILENCE_BEFORE_DEATH:
                raise errors.Unavailable(f"nothing was heard for {silence:.0f} s")
            if silence > SILENCE_BEFORE_PING or now - self._said >= heartbeat_interval - tick:
                self._pings += 1
                self._outbox.ping = self._pings
                self._outbox.wake()
