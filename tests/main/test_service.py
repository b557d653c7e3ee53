"""The server in this process: ready only on a schema that suits, and in order when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from tests.loops.rig import rig_settings
from tests.service import refusal, soon

from stepwell.v1 import namespaces_pb2, namespaces_pb2_grpc, workers_pb2, workers_pb2_grpc
from stepwell_server.service import Service, StartError
from stepwell_server.store import migrations

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
QUICK = {"schema_check_seconds": 0.05, "clock_align_seconds": 0.05}


async def health(address: str) -> Any:
    async with grpc.aio.insecure_channel(address) as channel:
        return (await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())).status


async def watched(address: str, wanted: Any) -> None:
    """Returns when health says so."""
    async with asyncio.timeout(60), grpc.aio.insecure_channel(address) as channel:
        async for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
            if answer.status == wanted:
                return


async def refused(address: str) -> tuple[str, str, str]:
    """The code, reason and message with which a call is refused."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = workers_pb2_grpc.WorkerServiceStub(channel).HeartbeatTasks(workers_pb2.HeartbeatTasksRequest())
        code, reason = await refusal(call)
        return code, reason, str(await call.details())


def has_looked(service: Service) -> Callable[[], Awaitable[bool]]:
    """Whether it has looked at its database, and found that it does not suit."""

    async def looked() -> bool:
        return service.readiness.advice != "it is starting"

    return looked


async def test_a_service_serves(database_url: str) -> None:
    async with Service(rig_settings(database_url)) as service:
        assert await health(service.address) == SERVING
        async with asyncio.timeout(60):
            await service.leader.wait_elected()
        assert service.database.counters.statements > 0
    assert not service.leader.is_leading()


async def test_two_services_one_leader(database_url: str) -> None:
    async with Service(rig_settings(database_url)) as one, Service(rig_settings(database_url)) as other:
        async with asyncio.timeout(60):
            await asyncio.wait(
                [asyncio.ensure_future(each.leader.wait_elected()) for each in (one, other)],
                return_when=asyncio.FIRST_COMPLETED,
            )
        assert [one.leader.is_leading(), other.leader.is_leading()].count(True) == 1


async def test_a_port_in_use(database_url: str) -> None:
    async with Service(rig_settings(database_url)) as service:
        port = int(service.address.rsplit(":", 1)[1])
        with pytest.raises(StartError, match="another server"):
            await Service(rig_settings(database_url, port=port)).start()


async def test_a_schema_that_is_behind_is_waited_for(empty_database_url: str) -> None:
    service = Service(rig_settings(empty_database_url, **QUICK))
    await service.start()
    try:
        assert await health(service.address) == NOT_SERVING
        await soon(has_looked(service))
        code, reason, advice = await refused(service.address)
        assert (code, reason) == ("UNAVAILABLE", "SERVER_NOT_READY")
        assert 'schema "stepwell" has version 0' in advice
        assert "run `stepwell-server migrate`" in advice
        await migrations.migrate(empty_database_url)
        await watched(service.address, SERVING)
    finally:
        await service.stop()


async def test_a_schema_that_goes_beyond_is_stood_down_from(database_url: str) -> None:
    sql = await asyncpg.connect(database_url)
    async with Service(rig_settings(database_url, **QUICK)) as service:
        await service.leader.wait_elected()
        await sql.execute("UPDATE stepwell.stepwell_version SET version = 1000, min_server = 1000")
        await watched(service.address, NOT_SERVING)
        assert not service.leader.is_leading()
        code, reason, advice = await refused(service.address)
        assert (code, reason) == ("UNAVAILABLE", "SERVER_NOT_READY")
        assert "bears none older than 1000: upgrade the server" in advice
        await sql.execute("UPDATE stepwell.stepwell_version SET version = 1000, min_server = 1")
        await watched(service.address, SERVING)
        async with asyncio.timeout(60):
            await service.leader.wait_elected()
    await sql.close()


async def test_a_database_that_is_away_is_waited_for() -> None:
    service = Service(rig_settings("postgresql://nobody@127.0.0.1:1/none", **QUICK))
    assert service.readiness.advice == "it is starting"
    await service.start()
    try:
        assert await health(service.address) == NOT_SERVING
        await soon(has_looked(service))
        code, reason, advice = await refused(service.address)
        assert (code, reason) == ("UNAVAILABLE", "SERVER_NOT_READY")
        assert advice == "The server is not ready: its database can't be used, and its log says why."
    finally:
        await service.stop()


async def test_a_server_knows_its_number_from_its_start(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrations that are installed over a running server are not its own: it goes on by those that it came with."""
    async with Service(rig_settings(database_url, **QUICK)) as service:
        own = migrations.shipped()
        newer = [*own, migrations.Migration(len(own) + 1, "newer", "SELECT 1")]
        looked = asyncio.Event()
        check = migrations.check

        async def counted(*arguments: Any, **named: Any) -> migrations.Window:
            window = await check(*arguments, **named)
            looked.set()
            return window

        monkeypatch.setattr(migrations, "shipped", lambda: newer)
        monkeypatch.setattr(migrations, "check", counted)
        async with asyncio.timeout(60):
            await looked.wait()
            looked.clear()
            await looked.wait()
        assert await health(service.address) == SERVING


async def test_calls_are_answered(database_url: str) -> None:
    async with Service(rig_settings(database_url)) as service, grpc.aio.insecure_channel(service.address) as channel:
        stub = namespaces_pb2_grpc.NamespaceServiceStub(channel)
        answer = await stub.ListNamespaces(namespaces_pb2.ListNamespacesRequest())
        assert [namespace.name for namespace in answer.namespaces] == ["main"]


async def test_a_worker_that_stays_does_not_hold_up_the_end(database_url: str) -> None:
    """Its stream is closed when it was asked to leave and did not; its session lives on."""
    service = Service(rig_settings(database_url))
    await service.start()
    await service.wait_ready()
    async with grpc.aio.insecure_channel(service.address) as channel:
        stream: Any = workers_pb2_grpc.WorkerServiceStub(channel).Connect()
        hello = workers_pb2.Hello(namespace="main", worker_id="w", task_queues=["q"], workflow_types=["wf"])
        await stream.write(workers_pb2.ConnectRequest(hello=hello))
        welcome = (await stream.read()).welcome
        started = asyncio.get_running_loop().time()
        await service.stop()
        assert asyncio.get_running_loop().time() - started < 8
        sql = await asyncpg.connect(database_url)
        assert [str(row[0]) for row in await sql.fetch("SELECT session_id FROM stepwell.sessions")] == [
            welcome.session_id
        ]
        await sql.close()
