"""Health, as probes and balancers ask for it by `grpc.health.v1.Health`.

    liveness              SERVING to the end: whoever answers is alive, and a loop that hangs does not answer
    readiness, startup    calls can be answered, the database is there, and the server does not leave
    ""                    calls can be answered, and the server does not leave; likewise each service by its name

`Health` takes the place of grpcio's own servicer, under which a watcher that reads nothing keeps everybody from being
told, and which turns all names to NOT_SERVING when the server leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from stepwell_server.api.interceptors.errors import Errors
from stepwell_server.api.methods import Methods
from stepwell_server.api.ports import bind

if TYPE_CHECKING:
    from stepwell_server.api.interceptors.around import Context

LIVENESS = "liveness"
READINESS = ("readiness", "startup")

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

# Probes are few and small.
_PROBES_OF_A_CONNECTION = 100
_PROBE_BYTES = 16 * 1024


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """See the module. Not serving, until it is told."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = ("", *services)
        self._is_ready = self._is_leaving = False
        self._has_database = True
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._is_closed = False
        self._tell()

    def ready(self, *, is_ready: bool) -> None:
        """Whether calls can be answered."""
        self._is_ready = is_ready
        self._tell()

    def database(self, *, is_there: bool) -> None:
        """Whether the database is there."""
        self._has_database = is_there
        self._tell()

    def leave(self) -> None:
        """The server ends: from now on only liveness is SERVING."""
        self._is_leaving = True
        self._tell()

    def close(self) -> None:
        """Ends all watches, once they have told the last."""
        self._is_closed = True
        self._wake()

    async def Check(self, request: Any, context: Context) -> Any:  # noqa: ANN401 - messages without types
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no service of this name")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: Context) -> AsyncGenerator[Any, None]:  # noqa: ANN401 - likewise
        told = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, _UNKNOWN)
            if status != told:
                yield health_pb2.HealthCheckResponse(status=status)
                told = status
            elif self._is_closed:
                return
            else:
                await changed.wait()

    def _tell(self) -> None:
        is_serving = self._is_ready and not self._is_leaving
        status = _SERVING if is_serving else _NOT_SERVING
        ready = _SERVING if is_serving and self._has_database else _NOT_SERVING
        self._statuses = {
            LIVENESS: _SERVING,
            **dict.fromkeys(READINESS, ready),
            **dict.fromkeys(self._services, status),
        }
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class HealthPort:
    """A port of its own, in the clear, for probes that do not speak TLS: it answers nothing but health."""

    def __init__(self, health: Health, address: str) -> None:
        """Binds the address. Raises RuntimeError if that can't be done."""
        methods = Methods((Errors(),))
        health_pb2_grpc.add_HealthServicer_to_server(health, methods)
        options = (
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", _PROBE_BYTES),
            ("grpc.max_concurrent_streams", _PROBES_OF_A_CONNECTION),
        )
        self._server = grpc.aio.server(handlers=(methods,), options=options)
        self.port = bind(self._server, address)

    async def start(self) -> None:
        """Takes probes."""
        await self._server.start()

    async def stop(self) -> None:
        """Ends at once."""
        await self._server.stop(0)
