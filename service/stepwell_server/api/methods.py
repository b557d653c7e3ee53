"""All methods that are served, each behind its interceptors.

gRPC's loop waits for a call of each method that is registered with it apart: with two hundred of them it costs more to
accept a call than to answer most. And it asks its interceptors anew at every call. So all methods are one generic
handler here, put behind the interceptors once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import grpc

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stepwell_server.api.interceptors.around import Handler


class Interceptor(Protocol):
    """Stands before handlers."""

    def wrap(self, method: str, handler: Handler) -> Handler:
        """The handler of a method, named as `/package.Service/Method`, behind the interceptor; or as it is."""
        ...


class Methods(grpc.GenericRpcHandler):
    """See the module. The first interceptor is the outermost.

    It takes methods as a server does, for the functions that are generated with each service.
    """

    def __init__(self, interceptors: Sequence[Interceptor]) -> None:
        self._interceptors = interceptors
        self._handlers: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Ignored: the same methods come by their names."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Adds the methods of a service."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            for interceptor in reversed(self._interceptors):
                handler = interceptor.wrap(method, handler)  # noqa: PLW2901 - one around the other
            self._handlers[method] = handler

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a call; None if there is no such method."""
        return self._handlers.get(handler_call_details.method)
