"""The server as tools and orchestrators meet it: health, reflection with comments, sizes, an orderly end."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]

from stepwell.v1 import namespaces_pb2, namespaces_pb2_grpc
from stepwell_server.api import server as server_module
from stepwell_server.api.server import Server, build_server, described_files
from stepwell_server.errors import NamespaceNotFound
from stepwell_server.settings import Limits, Settings

SERVICE = "stepwell.v1.NamespaceService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Namespaces(namespaces_pb2_grpc.NamespaceServiceServicer):
    """Answers with what is asked, once it may."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def GetNamespace(self, request: Any, context: Any) -> namespaces_pb2.GetNamespaceResponse:
        self.asked.set()
        await self.may_answer.wait()
        if request.namespace == "none":
            raise NamespaceNotFound(namespace="none")
        return namespaces_pb2.GetNamespaceResponse(namespace=namespaces_pb2.Namespace(name=request.namespace))

    async def ListNamespaces(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    CreateNamespace = UpdateNamespace = DeleteNamespace = GetNamespaceStats = ListNamespaces


@asynccontextmanager
async def serving(servicer: Namespaces, **settings: Any) -> AsyncIterator[tuple[Server, Any]]:
    server = build_server(Settings(port=0, **settings), [servicer])
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield server, channel
    await server.stop()


async def health(channel: Any, service: str = "") -> int:
    response = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return int(response.status)


async def get(channel: Any, name: str = "main") -> str:
    request = namespaces_pb2.GetNamespaceRequest(namespace=name)
    response = await namespaces_pb2_grpc.NamespaceServiceStub(channel).GetNamespace(request, timeout=10)
    return str(response.namespace.name)


async def test_health_tells_when_it_is_ready() -> None:
    """Not serving until it is said to, for the server and for each service; watchers hear of it."""
    async with serving(Namespaces()) as (server, channel):
        assert [await health(channel, name) for name in ("", SERVICE)] == [NOT_SERVING, NOT_SERVING]
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == NOT_SERVING
        await server.ready()
        assert (await watch.read()).status == SERVING
        assert [await health(channel, name) for name in ("", SERVICE)] == [SERVING, SERVING]
        with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
            await health(channel, "other")
        await server.ready(is_ready=False)
        assert await health(channel) == NOT_SERVING
        watch.cancel()


async def test_calls_are_served_and_refused() -> None:
    async with serving(Namespaces()) as (server, channel):
        assert server.services == (SERVICE,)
        assert await get(channel, "here") == "here"
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await get(channel, "none")
        assert raised.value.details() == "Namespace none does not exist."


async def test_a_message_of_the_greatest_size_arrives() -> None:
    """One a little beyond still does, for a refusal that says what is wrong; one far beyond does not."""
    async with serving(Namespaces(), limits=Limits(message_bytes=1_000_000)) as (_, channel):
        assert len(await get(channel, "x" * 1_100_000)) == 1_100_000
        with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED"):
            await get(channel, "x" * 2_000_000)


async def test_an_address_is_not_shared() -> None:
    async with serving(Namespaces()) as (server, _):
        with pytest.raises(RuntimeError):
            build_server(Settings(port=server.port), [Namespaces()])


def test_a_servicer_has_a_service() -> None:
    with pytest.raises(TypeError, match="derived from no generated servicer"):
        build_server(Settings(port=0), [object()])


async def test_no_method_is_registered_with_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loop would wait for a call of each apart: with two hundred methods that costs more than most calls."""
    registered: list[str] = []
    monkeypatch.setattr(grpc.aio.Server, "add_registered_method_handlers", lambda _, name, __: registered.append(name))
    async with serving(Namespaces()) as (_, channel):
        assert await get(channel) == "main"
    assert registered == []


async def test_stopping_drains_and_lets_calls_end() -> None:
    """Health first, then what drains, then the calls that run, which are answered."""
    servicer = Namespaces()
    servicer.may_answer.clear()
    drained: list[int] = []
    async with serving(servicer, shutdown_seconds=10) as (server, channel):
        await server.ready()
        call = asyncio.ensure_future(get(channel))
        await servicer.asked.wait()

        async def drain() -> None:
            drained.append(await health(channel))
            servicer.may_answer.set()

        await server.stop(drain)
        assert await call == "main"
    assert drained == [NOT_SERVING]


async def test_stopping_has_an_end() -> None:
    """Neither a drain nor a call that hangs keeps a server from ending in its time."""
    servicer = Namespaces()
    servicer.may_answer.clear()
    async with serving(servicer, shutdown_seconds=0.4) as (server, channel):
        call = asyncio.ensure_future(get(channel))
        await servicer.asked.wait()
        async with asyncio.timeout(30):
            await server.stop(lambda: asyncio.sleep(60))
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_a_failed_drain_is_heard_of() -> None:
    async def drain() -> None:
        raise ValueError("drain")

    async with serving(Namespaces()) as (server, _):
        with pytest.raises(ValueError, match="drain"):
            await server.stop(drain)


def reflecting(channel: Any, service: str) -> Callable[..., Any]:
    """Answers a function that asks one question of a reflection service."""
    method = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )

    async def ask(**question: Any) -> Any:
        (response,) = [answer async for answer in method(iter([reflection_pb2.ServerReflectionRequest(**question)]))]
        return response

    return ask


@pytest.mark.parametrize("service", [server_module.REFLECTION, server_module.REFLECTION_V1])
async def test_reflection_answers_with_comments(service: str) -> None:
    """Both versions list the services, and describe them with the comments of the protos."""
    async with serving(Namespaces()) as (_, channel):
        ask = reflecting(channel, service)
        listed = (await ask(list_services="")).list_services_response.service
        assert [found.name for found in listed] == [server_module.HEALTH, server_module.REFLECTION, SERVICE]
        for name in (SERVICE, f"{SERVICE}.GetNamespace", "stepwell.v1.Namespace.name"):
            files = (await ask(file_containing_symbol=name)).file_descriptor_response.file_descriptor_proto
            described = [FileDescriptorProto.FromString(text) for text in files]
            assert described[0].name == "stepwell/v1/namespaces.proto"
            comments = [place.leading_comments for place in described[0].source_code_info.location]
            assert any("`main` always exists" in comment for comment in comments)
            assert {below for file in described for below in file.dependency} <= {file.name for file in described}
        extension = reflection_pb2.ExtensionRequest(
            containing_type="google.protobuf.MethodOptions", extension_number=50107
        )
        for question in (
            {"file_containing_extension": extension},
            {"file_containing_symbol": "google.rpc.ErrorInfo"},
            {"file_containing_symbol": server_module.REFLECTION},
            {"file_by_filename": "stepwell/v1/types.proto"},
        ):
            assert (await ask(**question)).HasField("file_descriptor_response"), question
        numbers = (
            await ask(all_extension_numbers_of_type="google.protobuf.MethodOptions")
        ).all_extension_numbers_response
        assert list(numbers.extension_number) == [50107]


async def test_reflection_says_what_it_does_not_know() -> None:
    async with serving(Namespaces()) as (_, channel):
        ask = reflecting(channel, server_module.REFLECTION)
        for question in (
            {"file_containing_symbol": "no.such.Symbol"},
            {"file_by_filename": "none.proto"},
            {"all_extension_numbers_of_type": "none"},
        ):
            assert (await ask(**question)).error_response.error_code == 5
        assert (await ask()).error_response.error_code == 3


def test_all_that_is_imported_is_described() -> None:
    """A tool can resolve every file."""
    files = described_files()
    assert {below for file in files.values() for below in file.dependency} <= set(files)
    assert reflection_pb2_grpc is not None


def _grpcurl() -> str | None:
    given = os.environ.get("GRPCURL")
    if given and Path(given).exists():
        return str(Path(given).resolve())
    return shutil.which("grpcurl")


@pytest.mark.skipif(_grpcurl() is None and not os.environ.get("CI"), reason="grpcurl is not installed: make tools")
async def test_grpcurl_is_pleasant() -> None:
    """It lists, describes with comments and options, calls, and shows the details of a refusal."""
    assert _grpcurl() is not None, "grpcurl is not installed: make tools"

    async def grpcurl(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            str(_grpcurl()), "-plaintext", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        return output.decode()

    async with serving(Namespaces()) as (server, _):
        address = f"127.0.0.1:{server.port}"
        assert SERVICE in (await grpcurl(address, "list")).splitlines()
        described = await grpcurl(address, "describe", SERVICE)
        assert "// Deletes an empty namespace." in described
        assert "TRAIT_ASSAY_WORKFLOW_STORE" in described
        called = await grpcurl("-d", '{"namespace": "here"}', address, f"{SERVICE}/GetNamespace")
        assert '"name": "here"' in called
        refused = await grpcurl("-d", '{"namespace": "none"}', address, f"{SERVICE}/GetNamespace")
        assert "Code: NotFound" in refused
        assert '"reason": "NAMESPACE_NOT_FOUND"' in refused
