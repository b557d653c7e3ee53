"""The tap: what the worker under test connects to. It leads every call to a replica, listens, and makes faults.

Every method is forwarded as bytes. What goes over `WorkerService.Connect` is read both ways, noted with its time and
put into the account. Before a message goes on, each fault that is set looks at it: it may change the message in place,
do something with the stream, and withhold it by answering False.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from stepwell.conformance.account import Account, Limits
from stepwell.conformance.link import Link
from stepwell.conformance.messages import TAP, Said
from stepwell.v1.workers_pb2 import ConnectRequest, ConnectResponse

CONNECT = "/stepwell.v1.WorkerService/Connect"
LIST_STEPS = "/stepwell.v1.WorkerService/ListTaskSteps"

RequestFault = Callable[[Link, ConnectRequest], object]
ResponseFault = Callable[[Link, ConnectResponse], object]

_REMEMBERED = 5_000
_MESSAGE_BYTES = 32 * 1024 * 1024
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    # Each call goes over what is there; a replica that is gone is looked for soon.
    ("grpc.max_reconnect_backoff_ms", 500),
)
# The call's own, which the next hop makes anew.
_OWN_METADATA = ("user-agent", "grpc-", "content-type", "te")


class Tap:
    """See the module. New calls go to the replica `at`; while it `refuses` them, a stream ends with `UNAVAILABLE`.

    Each message comes `delay` seconds late. `unknown` is put behind each that the worker gets. What the worker says is
    read only every `stall` seconds.
    """

    def __init__(self, replicas: Sequence[str], limits: Limits) -> None:
        """Prepares it; entering opens it."""
        self.address = ""
        self.at = 0
        self.refuses = False
        self.refused: list[float] = []
        self.links: list[Link] = []
        self.calls: collections.Counter[str] = collections.Counter()
        self.said: collections.deque[Said] = collections.deque(maxlen=_REMEMBERED)
        self.account = Account(limits)
        self.on_request: list[RequestFault] = []
        self.on_response: list[ResponseFault] = []
        self.delay = self.stall = 0.0
        self.unknown = b""
        self._replicas = replicas
        self._channels: list[grpc.aio.Channel] = []
        self._server: grpc.aio.Server
        self._opened = 0
        self._began = time.monotonic()

    async def __aenter__(self) -> Self:
        """Listens on a free port."""
        self._channels = [grpc.aio.insecure_channel(replica, options=_OPTIONS) for replica in self._replicas]
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((_Anything(self._serve),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cuts all that stands, and closes."""
        self.cut()
        await self._server.stop(0.2)
        for channel in self._channels:
            await channel.close()

    @property
    def link(self) -> Link | None:
        """The worker's latest stream, if it stands."""
        return self.links[-1] if self.links and not self.links[-1].is_over else None

    def calm(self) -> None:
        """Makes no faults any more."""
        self.on_request.clear()
        self.on_response.clear()
        self.refuses, self.delay, self.stall, self.unknown = False, 0.0, 0.0, b""
        for link in self.links:
            link.speak()

    def begin(self) -> None:
        """Another case begins: what was said before is forgotten, the account goes on."""
        self.calm()
        self.said.clear()
        self.calls.clear()
        self.account.violations.clear()
        self.account.peak = 0
        self.refused.clear()
        self.links = [link for link in self.links if not link.is_over]
        self._began = time.monotonic()

    def cut(self) -> None:
        """Breaks the worker's streams off."""
        for link in self.links:
            link.cut()

    def move(self) -> None:
        """Leads what comes from now on to the other replica."""
        self.at = (self.at + 1) % len(self._replicas)

    def note(self, link: Link, who: str, what: ConnectRequest | ConnectResponse | str) -> None:
        """Remembers what was said."""
        self.said.append(Said(time.monotonic() - self._began, link.number, who, what))

    # Calls

    async def _serve(self, method: str, context: Any) -> None:  # noqa: ANN401 - gRPC does not type it
        self.calls[method] += 1
        if method == CONNECT and self.refuses:
            self.refused.append(time.monotonic())
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the tap refuses streams")
        metadata = [
            (name, value) for name, value in context.invocation_metadata() or () if not name.startswith(_OWN_METADATA)
        ]
        upstream: Any = self._channels[self.at].stream_stream(method)(metadata=metadata)
        if method == CONNECT:
            self._opened += 1
            link = Link(self, self._opened, self.at, context, upstream)
            self.links.append(link)
            await link.follow()
        else:
            await _forward(context, upstream)

    # What goes over a worker's stream

    def requested(self, link: Link, message: ConnectRequest) -> bool:
        """Notes what the worker said. False withholds it."""
        self.note(link, "worker", message)
        link.requests.append(message)
        self.account.heard(message, link.number)
        return all(fault(link, message) is not False for fault in tuple(self.on_request))

    def responding(self, link: Link, message: ConnectResponse) -> bool:
        """Lets the faults look at what the service says. False withholds it."""
        return all(fault(link, message) is not False for fault in tuple(self.on_response))

    def responded(self, link: Link, message: ConnectResponse) -> None:
        """Notes what the worker is told."""
        self.note(link, "service", message)
        link.responses.append(message)
        self.account.told(message)

    def ended(self, link: Link, why: str, reason: str) -> None:
        """Notes the end of a stream."""
        self.note(link, TAP, why)
        if reason == "SESSION_EXPIRED":
            self.account.lost()


class _Anything(grpc.GenericRpcHandler):
    """Takes every method for one that streams both ways: on the wire the others are no different."""

    def __init__(self, serve: Callable[[str, Any], Any]) -> None:
        self._serve = serve

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:  # noqa: ANN401 - gRPC does not type it
        method = handler_call_details.method

        async def serve(_: object, context: Any) -> None:  # noqa: ANN401 - gRPC does not type it
            await self._serve(method, context)

        return grpc.stream_stream_rpc_method_handler(serve)


async def _forward(context: Any, upstream: Any) -> None:  # noqa: ANN401 - gRPC does not type them
    async def up() -> None:
        while (data := await context.read()) is not grpc.aio.EOF:
            await upstream.write(data)
        await upstream.done_writing()

    asking = asyncio.create_task(up())
    try:
        while (data := await upstream.read()) is not grpc.aio.EOF:
            await context.write(data)
        await hand_on_status(context, upstream)
    except grpc.aio.AioRpcError:
        await hand_on_status(context, upstream)
    finally:
        asking.cancel()
        upstream.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def hand_on_status(context: Any, upstream: Any) -> None:  # noqa: ANN401 - gRPC does not type them
    """Ends a call as its other half has ended."""
    code = await upstream.code()
    trailing = tuple(await upstream.trailing_metadata() or ())
    if code is grpc.StatusCode.OK:
        context.set_trailing_metadata(trailing)
        return
    await context.abort(code, await upstream.details() or "", trailing)
