"""What the interceptors share: a context manager around each call, whichever of the four kinds it is.

A streaming handler may be a generator, or a coroutine that reads and writes through its context (as health's `Watch`
is). gRPC tells the two apart by inspecting the function, so each is wrapped in its own kind.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import Any, TypeAlias

import grpc
import grpc.aio

# In quotes: these classes take parameters only in their stubs.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behavior: TypeAlias = "Callable[[Any, Context], Any]"

MAKERS: dict[tuple[bool, bool], tuple[str, Callable[..., Handler]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
NOTHING: AbstractAsyncContextManager[None] = nullcontext()
"""What surrounds a call for which there is nothing to do."""


class AroundCalls:
    """Enters `around` before the handler of a call and leaves it afterwards."""

    unary_only = False

    @abstractmethod
    def around(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        """Surrounds one call of a method, named as `/package.Service/Method`."""

    def wrap(self, method: str, handler: Handler) -> Handler:
        """The handler with every call surrounded."""
        if self.unary_only and (handler.request_streaming or handler.response_streaming):
            return handler
        kind, make = MAKERS[handler.request_streaming, handler.response_streaming]
        behavior: Behavior = getattr(handler, kind)
        wrap = self._generator if inspect.isasyncgenfunction(behavior) else self._coroutine
        return make(
            wrap(method, behavior),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _coroutine(self, method: str, behavior: Behavior) -> Behavior:
        async def call(request: object, context: Context) -> object:
            async with self.around(method, context):
                return await behavior(request, context)

        return call

    def _generator(self, method: str, behavior: Behavior) -> Behavior:
        async def call(request: object, context: Context) -> AsyncGenerator[object, None]:
            async with self.around(method, context), aclosing(behavior(request, context)) as responses:
                async for response in responses:
                    yield response

        return call
