"""Health: by the names that probes ask for, on a port of its own where the other speaks TLS, to the very end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from tests.certificates import Authority
from tests.engine.proxy import proxy
from tests.loops.rig import rig_settings
from tests.tls.kit import (
    NOT_SERVING,
    SECONDS,
    SERVICE_UNKNOWN,
    SERVING,
    asked,
    channel_to,
    refusal,
    secret_in,
    serving,
)

from stepwell_server.api.server import REFLECTION
from stepwell_server.service import Service

READY = ("", "readiness", "startup")
QUICK = {"schema_check_seconds": 0.05, "clock_align_seconds": 0.05, "health_port": 0}


@asynccontextmanager
async def watching(address: str, service: str) -> AsyncIterator[Any]:
    """A watch, and what it tells."""
    async with channel_to(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))
        try:
            yield watch
        finally:
            watch.cancel()


async def told(watch: Any, wanted: int) -> None:
    """Returns when a watch tells it."""
    async with asyncio.timeout(SECONDS):
        while (await watch.read()).status != wanted:
            pass


async def statuses(address: str, *services: str) -> list[int]:
    return [await asked(address, service=service) for service in services]


async def test_names_on_both_ports() -> None:
    """Liveness is there from the start; the others when calls can be answered."""
    async with serving(health_port=0) as server:
        await server.ready(is_ready=False)
        for address in (server.addresses["address"], server.addresses["health_address"]):
            assert await statuses(address, "liveness", *READY) == [SERVING, *[NOT_SERVING] * 3]
        await server.ready()
        for address in (server.addresses["address"], server.addresses["health_address"]):
            assert await statuses(address, "liveness", *READY) == [SERVING] * 4
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await asked(address, service="other")
            assert raised.value.code() is grpc.StatusCode.NOT_FOUND
            async with watching(address, "other") as watch:
                await told(watch, SERVICE_UNKNOWN)


async def test_the_port_of_health_speaks_plainly_and_of_nothing_else(tmp_path: Path) -> None:
    """Beside a port that takes nobody without a certificate."""
    authority = Authority()
    secret, _ = secret_in(tmp_path, authority)
    async with serving(**secret.settings(with_clients=True, health_port=0)) as server:
        await refusal(server.addresses["address"])
        address = server.addresses["health_address"]
        assert await asked(address, service="readiness") == SERVING
        async with channel_to(address) as channel:
            for method in ("stepwell.v1.NamespaceService/ListNamespaces", f"{REFLECTION}/ServerReflectionInfo"):
                call: Any = channel.unary_unary(f"/{method}")
                with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
                    await call(b"", timeout=SECONDS)


async def test_a_watcher_that_reads_nothing_holds_nobody_up() -> None:
    """Its connection has no room for a single answer, and others are told all the same."""
    async with serving(health_port=0) as server:
        address = server.addresses["health_address"]
        stuck = await _stuck(address)
        async with watching(address, "") as watch:
            await told(watch, SERVING)
            async with asyncio.timeout(SECONDS):
                await server.ready(is_ready=False)
            await told(watch, NOT_SERVING)
        stuck.close()


async def _stuck(address: str) -> asyncio.StreamWriter:
    """A client that watches, by HTTP/2 frames of its own, with windows of no size."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    # SETTINGS: an initial window of 0.
    writer.write(_frame(4, 0, 0, (4).to_bytes(2) + (0).to_bytes(4)))
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/grpc.health.v1.Health/Watch"),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
    block = b"".join(b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields)
    writer.write(_frame(1, 4, 1, block))
    writer.write(_frame(0, 1, 1, bytes(5)))
    await writer.drain()
    # Its answer's head is no data, and comes.
    async with asyncio.timeout(SECONDS):
        while True:
            size, kind, _, stream = await _head(reader)
            await reader.readexactly(size)
            if (kind, stream) == (1, 1):
                return writer


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content


async def _head(reader: asyncio.StreamReader) -> tuple[int, int, int, int]:
    head = await reader.readexactly(9)
    return int.from_bytes(head[:3]), head[3], head[4], int.from_bytes(head[5:])


async def test_who_watches_does_not_hold_up_the_end() -> None:
    """A watch hears the last, and is ended."""
    async with serving(shutdown_seconds=60.0) as server, watching(server.addresses["address"], "readiness") as watch:
        await told(watch, SERVING)
        async with asyncio.timeout(SECONDS):
            await server.stop()
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF


async def test_liveness_does_not_ask_the_database(database_url: str) -> None:
    """Its outage turns readiness after a while, and nothing else; when it is back, so is readiness."""
    async with proxy(database_url) as through, Service(rig_settings(through.url, **QUICK)) as service:
        address = service.addresses["health_address"]
        assert await statuses(address, "liveness", *READY) == [SERVING] * 4
        async with watching(address, "readiness") as watch:
            await told(watch, SERVING)
            through.away = True
            through.cut()
            await told(watch, NOT_SERVING)
            assert await statuses(address, "liveness", "", "startup") == [SERVING, SERVING, NOT_SERVING]
            through.away = False
            await told(watch, SERVING)


async def test_a_database_that_is_away_from_the_start_kills_nobody() -> None:
    service = Service(rig_settings("postgresql://nobody@127.0.0.1:1/none", **QUICK))
    await service.start()
    try:
        assert await statuses(service.addresses["health_address"], "liveness", *READY) == [SERVING, *[NOT_SERVING] * 3]
    finally:
        await service.stop()


async def test_liveness_lasts_through_the_drain(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readiness turns first; while workers leave and calls end, and until all is closed, the process tells it lives."""
    service = Service(rig_settings(database_url, **QUICK))
    await service.start()
    await service.wait_ready()
    address = service.addresses["health_address"]
    draining, may_end, closing, may_close = (asyncio.Event() for _ in range(4))
    close = service.database.close

    async def drain() -> None:
        draining.set()
        await may_end.wait()

    async def slow_close() -> None:
        closing.set()
        await may_close.wait()
        await close()

    monkeypatch.setattr(service.dispatcher, "drain", drain)
    monkeypatch.setattr(service.database, "close", slow_close)
    async with asyncio.timeout(SECONDS):
        stopping = asyncio.create_task(service.stop())
        await draining.wait()
        for each in (address, service.address):
            assert await statuses(each, "liveness", *READY) == [SERVING, *[NOT_SERVING] * 3]
        may_end.set()
        await closing.wait()
        assert await statuses(address, "liveness", *READY) == [SERVING, *[NOT_SERVING] * 3]
        may_close.set()
        await stopping
    await refusal(address)
