"""One stream of the worker's through the tap: the two halves of it, and what can be done to them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from stepwell import reasons
from stepwell.conformance.messages import TAP
from stepwell.v1.workers_pb2 import ConnectRequest, ConnectResponse, Hello

if TYPE_CHECKING:
    from stepwell.conformance.tap import Tap

# While a silent stream stands, the tap lets the service know so often that its worker lives.
_SIGN_SECONDS = 0.5


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
        self._may_speak = asyncio.Event()
        self._may_speak.set()
        self._telling = asyncio.Lock()
        self._saying = asyncio.Lock()

    @property
    def hello(self) -> Hello:
        """What it began with; empty before."""
        return self.requests[0].hello if self.requests else Hello()

    # Faults

    def cut(self) -> None:
        """Breaks it off, for both."""
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
        up = asyncio.create_task(self._carry_up())
        down = asyncio.create_task(self._carry_down())
        cut = asyncio.create_task(self._is_cut.wait())
        signs = asyncio.create_task(self._give_signs())
        try:
            await asyncio.wait((down, cut), return_when=asyncio.FIRST_COMPLETED)
            if self._is_cut.is_set():
                self._end("cut", "")
                await self._context.abort(grpc.StatusCode.UNAVAILABLE, "the tap cut the stream")
            await self._end_as_service()
        finally:
            if not self.is_over:
                self._end("the worker ended the stream", "")
            for task in (up, down, cut, signs):
                task.cancel()
            self._upstream.cancel()
            await asyncio.gather(up, down, cut, signs, return_exceptions=True)

    def _end(self, why: str, reason: str) -> None:
        self.is_over = True
        self._tap.ended(self, why, reason)

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

    async def _carry_up(self) -> None:
        while (data := await self._context.read()) is not grpc.aio.EOF:
            await self._may_speak.wait()
            if self._tap.delay:
                await asyncio.sleep(self._tap.delay)
            message = ConnectRequest.FromString(data)
            if self._tap.requested(self, message):
                await self._say(message)
            if self._is_cut.is_set():
                return
        self.is_half_closed = True
        self._tap.note(self, "worker", "half-closes")
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._upstream.done_writing()

    async def _say(self, message: ConnectRequest) -> None:
        async with self._saying:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self._upstream.write(message.SerializeToString())

    async def _carry_down(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            while (data := await self._upstream.read()) is not grpc.aio.EOF:
                await self._may_speak.wait()
                if self._tap.delay:
                    await asyncio.sleep(self._tap.delay)
                message = ConnectResponse.FromString(data)
                if self._tap.responding(self, message) and not self._is_cut.is_set():
                    self._tap.responded(self, message)
                    async with self._telling:
                        await self._context.write(message.SerializeToString() + self._tap.unknown)

    async def _give_signs(self) -> None:
        """A session must outlive the silence of its stream, so that what the worker does of it can be seen."""
        while True:
            await asyncio.sleep(_SIGN_SECONDS)
            if not self._may_speak.is_set():
                await self._say(ConnectRequest())
