"""A worker's session: one stream after another, each resuming what the last one held."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from stepwell import errors, reasons
from stepwell.v1.workers_pb2 import ConnectRequest, ConnectResponse
from stepwell.v1.workers_pb2_grpc import WorkerServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stepwell._outbox import Outbox
    from stepwell.v1.workers_pb2 import Hello, TaskRef, Welcome

log = logging.getLogger("stepwell.worker")

# Seconds.
WELCOME_TIMEOUT = 10.0
SILENCE_BEFORE_PING = 20.0
SILENCE_BEFORE_DEATH = 30.0
BACKOFF_FIRST, BACKOFF_MAX = 0.2, 30.0
TICK = 1.0

# What no second attempt can mend.
_FATAL = (
    errors.InvalidArgument,
    errors.PermissionDenied,
    errors.Unauthenticated,
    errors.Unimplemented,
    reasons.NamespaceNotFound,
)
_SESSION_OVER = (reasons.SessionExpired, reasons.SessionNotFound)


class Listener(Protocol):
    """The worker behind the stream."""

    def held(self) -> list[TaskRef]:
        """Gives all tasks that are held."""
        ...

    def received(self, message: ConnectResponse) -> None:
        """Takes in a message."""
        ...

    def resumed(self, still_held: set[str]) -> None:
        """Drops tasks that are not held any more, except those with an unanswered report."""
        ...

    def session_lost(self) -> None:
        """Drops all tasks: the session is over, and its leases with it."""
        ...


class Connection:
    """Keeps a session alive over streams that come and go."""

    def __init__(
        self,
        open_channel: Callable[[], grpc.aio.Channel],
        metadata: tuple[tuple[str, str], ...],
        hello: Hello,
        outbox: Outbox,
        listener: Listener,
    ) -> None:
        """Prepares the connection; `run` opens it."""
        self._open_channel = open_channel
        self._metadata = metadata
        self._hello = hello
        self._outbox = outbox
        self._listener = listener
        self._heartbeat_interval = 10.0
        self._heard = self._said = 0.0
        self._pings = 0
        self._is_draining = self._is_closing = False
        self._leave_stream = asyncio.Event()
        self.is_welcome = asyncio.Event()

    async def run(self) -> None:
        """Stays connected until `close`. Raises `ServiceError` when the service refuses for good."""
        attempt = 0
        while not self._is_closing:
            channel = self._open_channel()
            try:
                await self._follow(channel)
                attempt = 0
                continue
            except (errors.ServiceError, TimeoutError) as error:
                if isinstance(error, _SESSION_OVER) and self._hello.session_id:
                    log.warning("the session is over: what it held is dropped")
                    self._forget_session()
                    continue
                if isinstance(error, _FATAL):
                    raise
                attempt = 0 if self.is_welcome.is_set() else attempt + 1
                delay = random.uniform(0, min(BACKOFF_MAX, BACKOFF_FIRST * 2**attempt))
                if not self._is_closing:
                    log.info("the stream is gone (%s); next attempt in %.1f s", str(error) or "no answer", delay)
                    await asyncio.sleep(delay)
            finally:
                self.is_welcome.clear()
                await channel.close()

    def drain(self) -> None:
        """Asks for no more tasks."""
        self._is_draining = True
        self._outbox.drain = True
        self._outbox.wake()

    def close(self) -> None:
        """Leaves the stream for good."""
        self._is_closing = True
        self._leave_stream.set()

    def rotate(self, within: float) -> None:
        """Moves to another stream, at a random moment of the given seconds."""
        asyncio.get_running_loop().call_later(random.uniform(0, within), self._leave_stream.set)

    async def _follow(self, channel: grpc.aio.Channel) -> None:
        """Opens a stream and follows it to its end."""
        call = WorkerServiceStub(channel).Connect(metadata=self._metadata)
        try:
            await self._greet(call)
            self._leave_stream.clear()
            if self._is_closing:
                return
            await self._converse(call)
        except grpc.RpcError as error:
            raise reasons.from_rpc(error) from None
        finally:
            call.cancel()

    async def _greet(self, call: grpc.aio.StreamStreamCall[ConnectRequest, ConnectResponse]) -> None:
        hello = self._hello
        del hello.held[:]
        hello.held.extend(self._listener.held() if hello.session_id else ())
        async with asyncio.timeout(WELCOME_TIMEOUT):
            await call.write(ConnectRequest(hello=hello))
            message = await call.read()
        if not isinstance(message, ConnectResponse) or not message.HasField("welcome"):
            raise errors.Unavailable("the stream ended before the service said welcome")
        self._take_welcome(message.welcome)
        self._heard = self._said = time.monotonic()
        self._listener.received(message)
        self.is_welcome.set()

    def _take_welcome(self, welcome: Welcome) -> None:
        if self._hello.session_id and not welcome.resumed:
            self._forget_session()
        elif welcome.resumed:
            self._listener.resumed({ref.task_id for ref in welcome.held})
            self._outbox.resume()
        self._hello.session_id = welcome.session_id
        self._heartbeat_interval = welcome.heartbeat_interval.ToTimedelta().total_seconds() or 10.0
        self._outbox.max_items = welcome.max_items or 256
        if self._is_draining:
            self.drain()
        log.info("connected: session %s%s", welcome.session_id, ", resumed" if welcome.resumed else "")

    def _forget_session(self) -> None:
        self._hello.session_id = ""
        self._outbox.clear()
        self._listener.session_lost()

    async def _converse(self, call: grpc.aio.StreamStreamCall[ConnectRequest, ConnectResponse]) -> None:
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._read(call)),
            asyncio.create_task(self._write(call)),
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._leave_stream.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[3] in done:
                if self._is_closing:
                    await self._say_goodbye(call, tasks)
                return
            # The reader knows why the stream ended; the writer only that it did.
            await asyncio.wait(tasks[:1], timeout=1.0 if tasks[1] in done else 0)
            for task in tasks[:3]:
                if task.done():
                    task.result()
            raise errors.Unavailable("the service ended the stream")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _say_goodbye(
        self, call: grpc.aio.StreamStreamCall[ConnectRequest, ConnectResponse], tasks: Sequence[asyncio.Task[Any]]
    ) -> None:
        """Half-closes, so that the service may end the session at once."""
        tasks[1].cancel()
        await asyncio.wait(tasks[1:2])
        await call.done_writing()
        await asyncio.wait(tasks[:1], timeout=2.0)

    async def _read(self, call: grpc.aio.StreamStreamCall[ConnectRequest, ConnectResponse]) -> None:
        while True:
            message = await call.read()
            if not isinstance(message, ConnectResponse):
                return
            self._heard = time.monotonic()
            if message.ping:
                self._outbox.pong = message.ping
                self._outbox.wake()
            self._listener.received(message)

    async def _write(self, call: grpc.aio.StreamStreamCall[ConnectRequest, ConnectResponse]) -> None:
        outbox = self._outbox
        while True:
            await outbox.filled()
            message = outbox.take()
            self._said = time.monotonic()
            await call.write(message)

    async def _watch(self) -> None:
        """Shows life, asks for it, and gives a silent stream up."""
        tick = min(TICK, self._heartbeat_interval / 4)
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
            if silence > SILENCE_BEFORE_PING or now - self._said >= self._heartbeat_interval - tick:
                self._pings += 1
                self._outbox.ping = self._pings
                self._outbox.wake()
