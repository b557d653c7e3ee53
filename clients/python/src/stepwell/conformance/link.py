"""One stream of the worker's through the tap: the two halves of it, and what can be done to them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from stepwell import reasons
from stepwell.conformance.messages import TAP
from stepwell.v1.workers_pb2 import ConnectRequest, ConnectResponse, Hello

if TYPE_CHECKING:
    from stepwell.conformance.tap import Tap

# While a silent stream stands, the tap lets the service know so often that its worker lives.
_SIGN_SECONDS = 0.5
_HALF_SAID_SECONDS = 1.0
_DETAILS = "grpc-status-details-bin"


class Link:
    """See the module. `requests` is all that the worker said, `responses` all that it was told."""

    def __init__(self, tap: Tap, number: int, replica: int, context: Any, upstream: Any) -> None:  # noqa: ANN401
        """Begins with both halves open."""
        self.number = number
        self.replica = replica
        self.peer: str = context.peer()
        self.opened = time.monotonic()
        self.requests: list[ConnectRequest] = []
        self.responses: list[ConnectResponse] = []
        self.is_half_closed = False
        self.is_over = False
        self._tap = tap
        self._context = context
        self._upstream = upstream
        self._is_cut = asyncio.Event()
        self._status = (grpc.StatusCode.UNAVAILABLE, "")
        self._may_speak = asyncio.Event()
        self._may_speak.set()
        self._telling = asyncio.Lock()
        self._saying = asyncio.Lock()
        self._up: asyncio.Queue[tuple[float, ConnectRequest | None]] = asyncio.Queue()
        self._down: asyncio.Queue[tuple[float, ConnectResponse | None]] = asyncio.Queue()

    @property
    def hello(self) -> Hello:
        """What it began with; empty before."""
        return self.requests[0].hello if self.requests else Hello()

    # Faults

    def cut(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, reason: str = "") -> None:
        """Breaks it off for both, as a lost connection does, or as the service would with that reason."""
        self._status = (code, reason)
        self._is_cut.set()

    def hush(self) -> None:
        """Lets no more bytes through, either way, and closes nothing. The session is kept alive meanwhile."""
        self._may_speak.clear()
        self._tap.note(self, TAP, "no more bytes either way")

    def speak(self) -> None:
        """Lets what was held up through."""
        self._may_speak.set()

    async def tell(self, message: ConnectResponse) -> None:
        """Tells the worker something that the service did not say. It is in no account."""
        self._tap.note(self, TAP, message)
        async with self._telling:
            await self._context.write(message.SerializeToString() + self._tap.unknown)

    # The stream

    async def follow(self) -> None:
        """Carries messages both ways until one side ends it, or it is cut."""
        down = asyncio.create_task(self._tell_all())
        cut = asyncio.create_task(self._is_cut.wait())
        beside = (self._hear_worker(), self._say_all(), self._hear_service(), self._give_signs())
        tasks = [down, cut, *map(asyncio.create_task, beside)]
        try:
            await asyncio.wait((down, cut), return_when=asyncio.FIRST_COMPLETED)
            if self._is_cut.is_set():
                await self._end_as_told()
                return
            await self._end_as_service()
        finally:
            if not self.is_over:
                self._end("the worker ended the stream", "")
            for task in tasks:
                task.cancel()
            self._upstream.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, why: str, reason: str) -> None:
        self.is_over = True
        self._tap.ended(self, why, reason)

    async def _end_as_told(self) -> None:
        code, reason = self._status
        # What is half said is said first: whoever is cut off is to hear of it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HALF_SAID_SECONDS), self._telling:
                pass
        self._end(f"cut: {code.name} {reason}".rstrip(), "")
        if code is grpc.StatusCode.OK:
            return
        number: int = code.value[0]
        status = Status(code=number, message="the tap cut the stream")
        if reason:
            status.details.add().Pack(ErrorInfo(reason=reason, domain="stepwell.dev"))
        await self._context.abort(code, status.message, ((_DETAILS, status.SerializeToString()),) if reason else ())

    async def _end_as_service(self) -> None:
        code = await self._upstream.code()
        trailing = tuple(await self._upstream.trailing_metadata() or ())
        details = await self._upstream.details() or ""
        if code is grpc.StatusCode.OK:
            self._end("the service ended the stream", "")
            return
        error = reasons.from_rpc(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details))
        self._end(f"the service ended the stream: {code.name}, {error.reason}, {details}", error.reason)
        await self._context.abort(code, details, trailing)

    async def _hear_worker(self) -> None:
        while (data := await self._context.read()) is not grpc.aio.EOF:
            await self._may_speak.wait()
            if self._tap.stall:
                await asyncio.sleep(self._tap.stall)
            message = ConnectRequest.FromString(data)
            if self._tap.requested(self, message):
                self._up.put_nowait((self._due(), message))
            if self._is_cut.is_set():
                return
        self.is_half_closed = True
        self._tap.note(self, "worker", "half-closes")
        self._up.put_nowait((self._due(), None))

    async def _say_all(self) -> None:
        while True:
            due, message = await self._up.get()
            await self._arrive(due)
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                if message is None:
                    await self._upstream.done_writing()
                    return
                async with self._saying:
                    await self._upstream.write(message.SerializeToString())

    async def _hear_service(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            while (data := await self._upstream.read()) is not grpc.aio.EOF:
                self._down.put_nowait((self._due(), ConnectResponse.FromString(data)))
        self._down.put_nowait((self._due(), None))

    async def _tell_all(self) -> None:
        while True:
            due, message = await self._down.get()
            await self._arrive(due)
            if message is None:
                return
            if self._tap.responding(self, message) and not self._is_cut.is_set():
                self._tap.responded(self, message)
                async with self._telling:
                    await self._context.write(message.SerializeToString() + self._tap.unknown)

    def _due(self) -> float:
        return time.monotonic() + self._tap.delay

    async def _arrive(self, due: float) -> None:
        """A message is as late as it should be, and waits while nothing is let through."""
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await self._may_speak.wait()

    async def _give_signs(self) -> None:
        """A session must outlive the silence of its stream, so that what the worker does of it can be seen."""
        while True:
            await asyncio.sleep(_SIGN_SECONDS)
            if not self._may_speak.is_set():
                async with self._saying:
                    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                        await self._upstream.write(b"")
