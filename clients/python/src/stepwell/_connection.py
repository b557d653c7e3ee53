"""A worker's session: one stream after another, each resuming what the last one held.

A stream that broke is followed by another after a while. One that the service asks to be moved stands, and works on,
until the new one is welcome: in between nothing stops.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Protocol

from stepwell import errors, reasons
from stepwell._stream import Stream
from stepwell.v1.workers_pb2 import Hello

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from stepwell._outbox import Outbox
    from stepwell._proofs import Proof
    from stepwell.v1.workers_pb2 import ConnectResponse, TaskRef, Welcome

log = logging.getLogger("stepwell.worker")

# Seconds.
BACKOFF_FIRST, BACKOFF_MAX = 0.2, 30.0
_MOST_DOUBLINGS = 16
# A session that is still held is sought several times before it ends.
_TRIES_A_SESSION = 4

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
        proof: Proof,
        hello: Hello,
        outbox: Outbox,
        listener: Listener,
    ) -> None:
        """Prepares the connection; `run` opens it."""
        self._open_channel = open_channel
        self._proof = proof
        self._hello = hello
        self._outbox = outbox
        self._listener = listener
        self._stream: Stream | None = None
        self._attempt = 0
        self._backoff_max = BACKOFF_MAX
        self._is_draining = self._is_closing = False
        self._leave_stream = asyncio.Event()
        self._leaving: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Stays connected until `close`. Raises `ServiceError` when the service refuses for good."""
        try:
            while not self._is_closing:
                try:
                    if self._stream is None or self._leave_stream.is_set():
                        await self._open_next()
                    await self._follow()
                except (errors.ServiceError, TimeoutError) as error:
                    await self._after(error)
        finally:
            await self._close_stream()

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
        self._leave_in(random.uniform(0, within))

    def _leave_in(self, seconds: float) -> None:
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().call_later(seconds, self._leave_stream.set)

    def _stay(self) -> None:
        """Forgets that the stream was to be left."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if not self._is_closing:
            self._leave_stream.clear()

    async def _open_next(self) -> None:
        """Opens a stream. The one before, if it still stands, works on until this one is welcome."""
        fresh = Stream(self._open_channel(), self._proof.metadata, self._outbox, self._listener.received)
        try:
            message = await fresh.greet(self._greeting())
        except BaseException:
            await fresh.close()
            raise
        former, self._stream, self._attempt = self._stream, fresh, 0
        if former is not None:
            former.hush()
        self._stay()
        self._take_welcome(message.welcome)
        self._listener.received(message)
        fresh.start(message.welcome.heartbeat_interval.ToTimedelta().total_seconds() or 10.0)
        if former is not None:
            await former.close()

    def _greeting(self) -> Hello:
        hello = Hello()
        hello.CopyFrom(self._hello)
        hello.held.extend(self._listener.held() if hello.session_id else ())
        return hello

    def _take_welcome(self, welcome: Welcome) -> None:
        if self._hello.session_id and not welcome.resumed:
            self._forget_session()
        elif welcome.resumed:
            self._listener.resumed({ref.task_id for ref in welcome.held})
            self._outbox.resume()
        self._hello.session_id = welcome.session_id
        self._backoff_max = welcome.session_ttl.ToTimedelta().total_seconds() / _TRIES_A_SESSION or BACKOFF_MAX
        self._outbox.max_items = welcome.max_items or 256
        if self._is_draining:
            self.drain()
        log.info("connected: session %s%s", welcome.session_id, ", resumed" if welcome.resumed else "")

    def _forget_session(self) -> None:
        self._hello.session_id = ""
        self._backoff_max = BACKOFF_MAX
        self._outbox.clear()
        self._listener.session_lost()

    async def _follow(self) -> None:
        """Follows the stream until it is to be left: for another one, or for good."""
        stream = self._stream
        if stream is None:
            raise AssertionError("there is a stream once one was opened")
        await stream.follow(self._leave_stream)
        if self._is_closing:
            await stream.say_goodbye()

    async def _after(self, error: errors.ServiceError | TimeoutError) -> None:
        """A stream has ended, or could not be opened. Raises the error when another attempt cannot help."""
        if isinstance(error, _SESSION_OVER) and self._hello.session_id:
            log.warning("the session is over: what it held is dropped")
            await self._close_stream()
            self._forget_session()
            return
        if isinstance(error, _FATAL) and not (isinstance(error, reasons.TokenExpired) and self._proof.is_renewed):
            raise error
        advice = getattr(error, "retry_seconds", None) or 0.0
        most = min(self._backoff_max, BACKOFF_FIRST * 2 ** min(self._attempt, _MOST_DOUBLINGS))
        delay = advice + random.uniform(0, most)
        self._attempt += 1
        if self._is_closing:
            return
        if self._stream is not None and not self._stream.has_ended:
            log.info("no other stream yet (%s); next attempt in %.1f s", str(error) or "no answer", delay)
            self._stay()
            self._leave_in(delay)
            return
        log.info("the stream is gone (%s); next attempt in %.1f s", str(error) or "no answer", delay)
        await self._close_stream()
        await asyncio.sleep(delay)

    async def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()
