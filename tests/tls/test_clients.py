"""Clients over TLS: the SDK, a worker, the command and grpcurl; and what each is told when it does not come about."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import shutil
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2_grpc  # type: ignore[import-untyped]
from tests import warm
from tests.certificates import Authority
from tests.stream.kit import SHORT, until
from tests.tls.kit import Secret, secret_in, serial, serving

from stepwell import CertificateError, Client, Context, Tls, Worker, errors, sync, workflow
from stepwell.stores.assay import WorkflowStore
from stepwell.v1.task_queues_pb2 import GetTaskQueueRequest
from stepwell_server.service import Service
from stepwell_server.settings import Settings

SECONDS = 60
TOOLS = Path(__file__).resolve().parents[2] / ".cache/tools/bin"


@workflow
async def greet(ctx: Context, name: str) -> str:
    return f"Hello, {name}!"


_held = asyncio.Event()


@workflow
async def wait(ctx: Context) -> str:
    _held.set()
    await ctx.wait_signal("go")
    return "went"


class World:
    """An authority, a service's secret and its files for clients."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        mounted = folder / "mounted"
        mounted.mkdir()
        self.secret, self.own = secret_in(mounted, self.authority)
        self.ca = self.authority.write(folder)
        self.certificate, self.key = self.authority.issue(["worker.example"]).write(folder, "client")
        self.other_ca = Authority("other").write(folder, "other")

    @property
    def trusting(self) -> Tls:
        return Tls(self.ca)

    @property
    def showing(self) -> Tls:
        return Tls(self.ca, self.certificate, self.key)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@asynccontextmanager
async def replica(database_url: str, **settings: Any) -> AsyncIterator[Service]:
    async with Service(Settings(**{"database_url": database_url, "port": 0, **SHORT, **settings})) as service:
        yield service


async def command(world: World, *arguments: str, **variables: str) -> tuple[int, str]:
    """Runs the command `stepwell`."""
    process = await asyncio.create_subprocess_exec(
        warm.command(), *arguments, stdout=PIPE, stderr=STDOUT, env={**os.environ, **variables}
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_the_client_and_a_worker_speak_tls(database_url: str, world: World) -> None:
    """In async and plain programs, and as a mirrored store."""
    async with replica(database_url, **world.secret.settings()) as service:
        async with await Client.connect(service.address, tls=world.trusting, call_timeout=SECONDS) as client:
            worker = Worker(client, workflows=[greet], drain_seconds=1)
            running = asyncio.create_task(worker.run())
            assert await (await client.start_run(greet, "you")).result() == "Hello, you!"
            worker.shutdown()
            await running

        def plain() -> int:
            with sync.Client.connect(service.address, tls=Tls(world.ca)) as client:
                return len(list(client.list_runs()))

        assert await asyncio.to_thread(plain) == 1
        async with WorkflowStore.connect(service.address, tls=world.trusting) as store:
            assert [each.name for each in await store.list_namespaces()] == ["main"]


async def test_the_environment_names_the_files(
    database_url: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(database_url, **world.secret.settings(with_clients=True)) as service:
        monkeypatch.setenv("STEPWELL_TLS_CA_FILE", str(world.ca))
        monkeypatch.setenv("STEPWELL_TLS_CLIENT_CERTIFICATE_FILE", str(world.certificate))
        with pytest.raises(CertificateError, match="go together"):
            await Client.connect(service.address)
        monkeypatch.setenv("STEPWELL_TLS_CLIENT_KEY_FILE", str(world.key))
        async with await Client.connect(service.address) as client:
            assert [run async for run in client.list_runs()] == []
        with pytest.raises(errors.Unavailable):
            await Client.connect(service.address, tls=False, connect_timeout=0.5)


async def test_certificates_are_exchanged_under_a_worker(database_url: str, world: World) -> None:
    """Its stream stays, with its session and the run that it holds; a new connection sees the new certificate."""
    settings = world.secret.settings(with_clients=True, tls_reload_seconds=0.05)
    async with (
        replica(database_url, **settings) as service,
        await Client.connect(service.address, tls=world.showing, call_timeout=SECONDS) as client,
    ):
        worker = Worker(client, workflows=[wait], drain_seconds=1)
        running = asyncio.create_task(worker.run())
        run = await client.start_run(wait)
        async with asyncio.timeout(SECONDS):
            await _held.wait()
        (session,) = service.dispatcher.sessions.values()
        outbox = session.outbox
        second = world.authority.issue()
        world.secret.put(second, world.authority.certificate)
        await until(lambda: serial(service.address), lambda shown: shown == second.serial)
        await run.signal("go")
        assert await run.result() == "went"
        assert list(service.dispatcher.sessions.values()) == [session]
        assert session.outbox is outbox
        worker.shutdown()
        await running


async def test_a_worker_shows_the_certificate_that_its_files_hold(database_url: str, world: World) -> None:
    """The CA for clients is exchanged, and so are the worker's files: its next stream is let in."""
    settings = world.secret.settings(with_clients=True, tls_reload_seconds=0.05)
    async with (
        replica(database_url, **settings) as service,
        await Client.connect(service.address, tls=world.showing, call_timeout=SECONDS) as client,
    ):
        other = Authority("other")
        other.issue(["worker.example"]).write(world.certificate.parent, "client")
        world.secret.put(world.own, other.certificate)
        async with asyncio.timeout(SECONDS):
            while True:
                channel = client.open_channel()
                try:
                    async with asyncio.timeout(1):
                        await channel.channel_ready()
                    break
                except TimeoutError:
                    continue
                finally:
                    await channel.close()


async def test_the_command_speaks_tls(database_url: str, world: World) -> None:
    async with replica(database_url, **world.secret.settings(with_clients=True)) as service:
        files = ("--tls-ca", str(world.ca), "--tls-certificate", str(world.certificate), "--tls-key", str(world.key))
        code, said = await command(world, "--address", service.address, *files, "namespace", "list", "-o", "json")
        assert code == 0, said
        assert [each["name"] for each in json.loads(said)] == ["main"]
        code, said = await command(world, "--address", service.address, *files[:4], "namespace", "list")
        assert code == 1
        assert "go together" in said
        code, said = await command(world, "--address", service.address, "namespace", "list", **_environment(world))
        assert code == 0, said
        code, said = await command(
            world, "--address", service.address, "--tls-ca", str(world.other_ca), "namespace", "list"
        )
        assert code == 1
        assert "signed by no CA that is known here" in said


def _environment(world: World) -> dict[str, str]:
    return {
        "STEPWELL_TLS_CA_FILE": str(world.ca),
        "STEPWELL_TLS_CLIENT_CERTIFICATE_FILE": str(world.certificate),
        "STEPWELL_TLS_CLIENT_KEY_FILE": str(world.key),
    }


def _grpcurl() -> str | None:
    return str(TOOLS / "grpcurl") if (TOOLS / "grpcurl").exists() else shutil.which("grpcurl")


@pytest.mark.skipif(_grpcurl() is None and not os.environ.get("CI"), reason="grpcurl is not installed: make tools")
async def test_grpcurl_speaks_tls(world: World) -> None:
    """With the CA, and with a certificate where one is required."""
    assert _grpcurl() is not None, "grpcurl is not installed: make tools"

    async def grpcurl(*arguments: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(str(_grpcurl()), *arguments, stdout=PIPE, stderr=STDOUT)
        out, _ = await process.communicate()
        return process.returncode, out.decode()

    async with serving(**world.secret.settings(with_clients=True)) as server:
        address, check = server.addresses["address"], "grpc.health.v1.Health/Check"
        shown = ("-cert", str(world.certificate), "-key", str(world.key))
        code, said = await grpcurl("-cacert", str(world.ca), *shown, address, check)
        assert (code, json.loads(said)) == (0, {"status": "SERVING"})
        for wrong in (("-cacert", str(world.ca)), ("-cacert", str(world.other_ca), *shown), ("-plaintext",)):
            code, said = await grpcurl("-max-time", "5", *wrong, address, check)
            assert code != 0, said


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("wrong CA", "signed by no CA that is known here: give its CA's file by STEPWELL_TLS_CA_FILE"),
        ("ended", "certificate has ended"),
        ("another host", "certificate has other names"),
        ("TLS to a plain port", "nobody speaks TLS at this port"),
        ("plain to a port of TLS", "if the port speaks TLS, turn that on and give its CA's file"),
        ("no certificate", "if it asks for certificates, give yours"),
    ],
)
async def test_a_client_is_told_what_to_do(case: str, told: str, world: World) -> None:
    """In place of gRPC's word for it; and at once where no second try will do better."""
    authority, client_ca = world.authority, world.authority.certificate if case == "no certificate" else None
    lasts = dt.timedelta(hours=-1) if case == "ended" else dt.timedelta(days=1)
    own = authority.issue(["other.example"], lasts=lasts) if case == "another host" else authority.issue(lasts=lasts)
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    if case == "TLS to a plain port":
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        credentials = grpc.ssl_server_credentials([(own.key, own.certificate)], client_ca, client_ca is not None)
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, 0)
        await _told(case, told, f"127.0.0.1:{port}", world)


async def _told(case: str, told: str, address: str, world: World) -> None:
    """Both by connecting, and by a call of a client that did not wait for a connection."""
    is_certain = not told.startswith("if ")
    encrypts: Tls | bool = Tls(world.other_ca) if case == "wrong CA" else world.trusting
    if case == "plain to a port of TLS":
        encrypts = False
    seconds = SECONDS if is_certain else 0.5

    async def connected() -> str:
        nonlocal seconds
        with pytest.raises(errors.Unavailable) as raised:
            await Client.connect(address, tls=encrypts, connect_timeout=seconds)
        seconds *= 2
        return str(raised.value)

    # One that may yet come about is waited for to the end, within which there must have been a first try.
    await until(connected, lambda said: told in said)
    async with await Client.connect(address, tls=encrypts, connect_timeout=0) as client:
        request = GetTaskQueueRequest(task_queue="q")
        with pytest.raises(errors.Unavailable) as refused:
            await client.caller.once(client.task_queue_stub.GetTaskQueue, request, SECONDS)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("spoiled", "told"),
    [
        ("ca", "ca.crt holds no CA certificate in PEM"),
        ("certificate", "are no certificate and its key"),
        ("key", "are no certificate and its key"),
        ("missing", "can't be read: No such file"),
    ],
)
def test_files_that_do_not_suit_are_named(spoiled: str, told: str, world: World) -> None:
    """Never with what is in them."""
    if spoiled == "missing":
        world.key.unlink()
    else:
        getattr(world, spoiled).write_text("s3cr3t")
    with pytest.raises(CertificateError, match=told) as raised:
        world.showing.credentials()
    assert "s3cr3t" not in str(raised.value)


def test_either_credentials_or_tls(world: World) -> None:
    with pytest.raises(TypeError, match="either"):
        asyncio.run(Client.connect(credentials=grpc.ssl_channel_credentials(), tls=world.trusting))


def test_a_mounted_secret_is_what_the_kit_says(tmp_path: Path) -> None:
    """The links are those of Kubernetes."""
    secret = Secret(tmp_path)
    secret.put(Authority().issue(), b"ca")
    assert (tmp_path / "ca.crt").read_bytes() == b"ca"
    assert os.readlink(tmp_path / "ca.crt") == "..data/ca.crt"  # noqa: PTH115 - the link's own text
