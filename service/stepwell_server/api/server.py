"""The gRPC server: its options, what it serves, health and reflection, and how it ends.

Reflection answers with the descriptors as they were compiled, comments and all: those that generated code registers
have lost theirs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]

from stepwell_server.api.health import Health
from stepwell_server.api.interceptors.admission import Admission
from stepwell_server.api.interceptors.deadlines import Deadlines
from stepwell_server.api.interceptors.errors import Errors
from stepwell_server.api.interceptors.tracing import Tracing
from stepwell_server.api.methods import Interceptor, Methods
from stepwell_server.settings import Settings

PACKAGE = "stepwell.v1"
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
# On the wire the same as v1alpha, which is all that grpcio ships.
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"

# A message of the greatest size allowed must arrive, so that one beyond is refused with a reason.
_MESSAGE_OVERHEAD = 256 * 1024
_STREAMS_OF_A_CONNECTION = 10_000
_NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]
_INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT.value[0]


class Server:
    """A server on its address. Not serving, as health has it, until `ready`."""

    def __init__(self, servicers: Iterable[object], interceptors: Sequence[Interceptor], settings: Settings) -> None:
        methods = Methods(interceptors)
        self._server = server = grpc.aio.server(handlers=(methods,), options=_options(settings))
        self._settings = settings
        self._health = Health()
        self.services = tuple(sorted(name for servicer in servicers for name in _register(servicer, methods)))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, methods)
        _register_reflection(Reflection((*self.services, HEALTH, REFLECTION)), methods)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.port = server.add_insecure_port(f"{host}:{settings.port}")

    async def start(self) -> None:
        """Takes calls."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()

    async def ready(self, *, is_ready: bool = True) -> None:
        """Tells health whether calls can be answered."""
        status = health_pb2.HealthCheckResponse
        await self._set_health(status.SERVING if is_ready else status.NOT_SERVING)

    async def stop(self, drain: Callable[[], Awaitable[None]] | None = None) -> None:
        """Ends within the settings' time: health first, then what `drain` has to finish, then running calls."""
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self._settings.unready_seconds)
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.shutdown_seconds
        draining = asyncio.ensure_future(drain()) if drain is not None else None
        if draining is not None:
            # Half of the time at most: what refuses to drain must not take it all from the calls.
            await asyncio.wait((draining,), timeout=self._settings.shutdown_seconds / 2)
        self._health.close()
        await self._server.stop(max(0.0, end - loop.time()))
        if draining is not None and not draining.done():
            draining.cancel()
        elif draining is not None:
            await draining

    async def wait(self) -> None:
        """Returns when the server has stopped."""
        await self._server.wait_for_termination()

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *self.services):
            await self._health.set(name, status)


def build_server(
    settings: Settings,
    servicers: Iterable[object],
    interceptors: Sequence[Interceptor] = (),
) -> Server:
    """Makes a server for the servicers, each derived from the generated class of its service.

    The interceptors given come after those for spans, errors, admission and deadlines, nearer to the handlers.
    """
    inner = (Tracing(), Errors(), Admission(settings.calls_at_once), Deadlines(), *interceptors)
    return Server(servicers, inner, settings)


def _options(settings: Settings) -> list[tuple[str, int]]:
    message_bytes = settings.limits.message_bytes + _MESSAGE_OVERHEAD
    return [
        # Else two processes share a port, and neither says so.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
        ("grpc.max_concurrent_streams", _STREAMS_OF_A_CONNECTION),
        # What comes faster than it is taken in: beyond 1,000 gRPC would drop it at random, as CANCELLED. Here it is
        # taken in and refused with a reason.
        ("grpc.server.max_pending_requests", _STREAMS_OF_A_CONNECTION),
        ("grpc.server.max_pending_requests_hard_limit", 10 * _STREAMS_OF_A_CONNECTION),
        # Streams go on; what follows goes over another connection, to replicas that the client may not know yet.
        ("grpc.max_connection_age_ms", int(settings.connection_seconds * 1000)),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients may ping as often; the default of five minutes would drop most of them.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def _register(servicer: object, methods: Methods) -> Iterator[str]:
    """Adds a servicer by the function that was generated with its base class; answers the service's name."""
    generated = [base for base in type(servicer).__mro__ if base.__module__.endswith("_pb2_grpc")]
    if not generated:
        raise TypeError(f"{type(servicer).__name__} is derived from no generated servicer")
    for base in generated:
        getattr(sys.modules[base.__module__], f"add_{base.__name__}_to_server")(servicer, methods)
        yield f"{PACKAGE}.{base.__name__.removesuffix('Servicer')}"


def _register_reflection(reflection: Reflection, methods: Methods) -> None:
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection, methods)
    handler = grpc.stream_stream_rpc_method_handler(
        reflection.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods.add_registered_method_handlers(REFLECTION_V1, {"ServerReflectionInfo": handler})


class Reflection:
    """Describes the services to tools such as grpcurl."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = sorted(services)
        self._files = described_files()
        self._symbols, self._extensions = _declared()

    async def ServerReflectionInfo(
        self,
        request_iterator: AsyncIterator[Any],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[Any]:
        async for request in request_iterator:
            response = reflection_pb2.ServerReflectionResponse(original_request=request, valid_host=request.host)
            self._answer(request, response)
            yield response

    def _answer(self, request: Any, response: Any) -> None:  # noqa: ANN401 - messages without types
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            response.list_services_response.SetInParent()
            for name in self._services:
                response.list_services_response.service.add(name=name)
        elif kind == "file_by_filename":
            self._add_files(response, request.file_by_filename)
        elif kind == "file_containing_symbol":
            self._add_files(response, self._symbols.get(request.file_containing_symbol))
        elif kind == "file_containing_extension":
            wanted = request.file_containing_extension
            self._add_files(response, self._extensions.get((wanted.containing_type, wanted.extension_number)))
        elif kind == "all_extension_numbers_of_type":
            self._add_extensions(response, request.all_extension_numbers_of_type)
        else:
            _refuse(response, _INVALID_ARGUMENT, "the request asks for nothing")

    def _add_files(self, response: Any, name: str | None) -> None:  # noqa: ANN401 - messages without types
        if name is None or name not in self._files:
            return _refuse(response, _NOT_FOUND, "there is no such file, symbol or extension")
        # Those that a file imports go along, or a tool would have to ask for each.
        names = [name]
        for above in names:
            names += [below for below in self._files[above].dependency if below not in names]
        described = [self._files[found].SerializeToString() for found in names]
        response.file_descriptor_response.file_descriptor_proto.extend(described)
        return None

    def _add_extensions(self, response: Any, extended: str) -> None:  # noqa: ANN401 - messages without types
        if extended not in self._symbols:
            return _refuse(response, _NOT_FOUND, "there is no such type")
        numbers = sorted(number for containing, number in self._extensions if containing == extended)
        response.all_extension_numbers_response.base_type_name = extended
        response.all_extension_numbers_response.extension_number.extend(numbers)
        return None


@cache
def described_files() -> Mapping[str, FileDescriptorProto]:
    """The compiled protos by name, in which the comments are, and what is served beside them. Read once."""
    packaged = files(PACKAGE).joinpath("descriptors.binpb").read_bytes()
    described = list(FileDescriptorSet.FromString(packaged).file)
    known = {file.name for file in described}
    beside = [module.DESCRIPTOR for module in (error_details_pb2, health_pb2, reflection_pb2)]
    described += [FileDescriptorProto.FromString(file.serialized_pb) for file in beside if file.name not in known]
    return {file.name: file for file in described}


@cache
def _declared() -> tuple[Mapping[str, str], Mapping[tuple[str, int], str]]:
    """The file that declares each symbol, and each extension, by the type that it extends and its number."""
    described = described_files().values()
    symbols = {symbol: file.name for file in described for symbol in _symbols(file)}
    extensions = {
        (extension.extendee.removeprefix("."), extension.number): file.name
        for file in described
        for extension in file.extension
    }
    return symbols, extensions


def _refuse(response: Any, code: int, message: str) -> None:  # noqa: ANN401 - messages without types
    response.error_response.error_code = code
    response.error_response.error_message = message


def _symbols(file: FileDescriptorProto) -> Iterator[str]:
    """Names all that a file declares."""
    prefix = f"{file.package}." if file.package else ""
    for message in file.message_type:
        yield from _symbols_of_message(message, prefix)
    for enum in file.enum_type:
        yield prefix + enum.name
        yield from (prefix + value.name for value in enum.value)
    for service in file.service:
        yield prefix + service.name
        yield from (f"{prefix}{service.name}.{method.name}" for method in service.method)
    yield from (prefix + extension.name for extension in file.extension)


def _symbols_of_message(message: DescriptorProto, prefix: str) -> Iterator[str]:
    yield (name := prefix + message.name)
    yield from (f"{name}.{field.name}" for field in message.field)
    yield from (f"{name}.{oneof.name}" for oneof in message.oneof_decl)
    for enum in message.enum_type:
        yield f"{name}.{enum.name}"
        yield from (f"{name}.{value.name}" for value in enum.value)
    for nested in message.nested_type:
        yield from _symbols_of_message(nested, f"{name}.")
