"""A server with methods of every kind behind the interceptors, and calls to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import grpc
import grpc.aio
import pytest
from google.rpc import status_pb2

from stepwell_server.api.interceptors.admission import Admission
from stepwell_server.api.interceptors.deadlines import Deadlines
from stepwell_server.api.interceptors.errors import DETAILS_KEY, Errors
from stepwell_server.api.interceptors.tracing import Tracing
from stepwell_server.api.methods import Interceptor, Methods
from stepwell_server.settings import Limits, Settings

SERVICE = "test.v1.Tests"
RUN_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
KINDS = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream", "UnaryWriter", "StreamWriter")

Fail = Callable[[grpc.aio.ServicerContext[Any, Any]], Any]


class Handlers:
    """A method of each kind, the streams as generators and as coroutines; each sends a byte and then does `act`."""

    def __init__(self, act: Fail) -> None:
        self.act = act

    async def UnaryUnary(self, request: bytes, context: Any) -> bytes:
        return await self.act(context) or b"done"

    async def UnaryStream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await self.act(context)

    async def StreamUnary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        assert [request async for request in requests] == [b"ask"]
        return await self.act(context) or b"done"

    async def StreamStream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield b"first"
        await self.act(context)

    async def UnaryWriter(self, request: bytes, context: Any) -> None:
        await context.write(b"first")
        await self.act(context)

    async def StreamWriter(self, requests: Any, context: Any) -> None:
        assert await context.read() == b"ask"
        await context.write(b"first")
        await self.act(context)

    def methods(self, *interceptors: Interceptor) -> Methods:
        methods = Methods(interceptors)
        methods.add_registered_method_handlers(
            SERVICE,
            {
                "UnaryUnary": grpc.unary_unary_rpc_method_handler(self.UnaryUnary),
                "UnaryStream": grpc.unary_stream_rpc_method_handler(self.UnaryStream),
                "StreamUnary": grpc.stream_unary_rpc_method_handler(self.StreamUnary),
                "StreamStream": grpc.stream_stream_rpc_method_handler(self.StreamStream),
                "UnaryWriter": grpc.unary_stream_rpc_method_handler(self.UnaryWriter),
                "StreamWriter": grpc.stream_stream_rpc_method_handler(self.StreamWriter),
            },
        )
        return methods


@asynccontextmanager
async def listening(
    act: Fail, maximum: float = 60.0, at_once: int = 100, streams: int = 100, of_key: int = 100
) -> AsyncIterator[str]:
    """A server, by its address."""
    settings = Settings(calls_at_once=at_once, streams_at_once=streams, limits=Limits(streams_per_key=of_key))
    around = (Tracing(), Errors(), Admission(settings), Deadlines(maximum))
    server = grpc.aio.server(handlers=(Handlers(act).methods(*around),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


@asynccontextmanager
async def serving(act: Fail, **settings: Any) -> AsyncIterator[Any]:
    """The same, by a channel to it."""
    async with listening(act, **settings) as address, grpc.aio.insecure_channel(address) as channel:
        yield channel


async def call(
    channel: Any, kind: str = "UnaryUnary", *, deadline: float | None = 10, traceparent: str = "", key: str = ""
) -> list[bytes]:
    """Makes a call, and answers all that came back."""
    method = f"/{SERVICE}/{kind}"
    options: dict[str, Any] = {"timeout": deadline}
    if traceparent:
        options["metadata"] = (("traceparent", traceparent), ("tracestate", "vendor=1"))
    if key:
        options["metadata"] = (("authorization", key),)
    if kind == "UnaryUnary":
        return [await channel.unary_unary(method)(b"ask", **options)]
    if kind == "StreamUnary":
        return [await channel.stream_unary(method)(iter([b"ask"]), **options)]
    if kind.startswith("Unary"):
        return [response async for response in channel.unary_stream(method)(b"ask", **options)]
    return [response async for response in channel.stream_stream(method)(iter([b"ask"]), **options)]


async def refused(channel: Any, kind: str = "UnaryUnary", **options: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(channel, kind, **options)
    return raised.value


def details(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    trailers = dict(error.trailing_metadata() or ())
    return status_pb2.Status.FromString(trailers[DETAILS_KEY])


def unpacked(status: status_pb2.Status, kind: type[Any]) -> list[Any]:
    found = []
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found


def raising(error: BaseException) -> Fail:
    async def act(context: Any) -> None:
        raise error

    return act
