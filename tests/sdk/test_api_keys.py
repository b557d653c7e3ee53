"""API keys by the client and by the command, on a server that asks for them."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from tests import warm
from tests.api.issuing import issuing
from tests.api.keyed import Keyed, keyed
from tests.service import soon

from stepwell import Client, Context, Worker, _proofs, activity, reasons, workflow
from stepwell.sync import Client as SyncClient
from stepwell.v1.types_pb2 import RUN_PHASE_SUSPENDED
from stepwell_server.model.api_keys import Role, new_secret


@pytest_asyncio.fixture
async def server(database_url: str) -> AsyncIterator[Keyed]:
    async with keyed(database_url) as made:
        yield made


async def test_an_admin_makes_and_revokes_keys(server: Keyed) -> None:
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    async with await Client.connect(server.service.address, api_key=server.admin) as admin:
        made = await admin.api_keys.create("reader", label="reports", expire_time=later)
        assert (made.api_key.namespace, made.api_key.expire_time.ToDatetime(dt.UTC)) == ("main", later)
        again = await admin.api_keys.create("reader", label="reports", reuse_label=True)
        assert (again.api_key.key_id, again.secret) == (made.api_key.key_id, "")
        assert (await admin.api_keys.create("admin")).api_key.namespace == "-"
        assert await admin.api_keys.get(made.api_key.key_id) == made.api_key
        async with await Client.connect(server.service.address, api_key=made.secret) as reader:
            assert [run async for run in reader.list_runs()] == []
            with pytest.raises(reasons.RoleDenied):
                await reader.start_run("t")
            assert await admin.api_keys.revoke(prefix=made.api_key.prefix)
            with pytest.raises(reasons.ApiKeyRevoked):
                await anext(reader.list_runs())
        assert not await admin.api_keys.revoke(made.api_key.key_id)
        assert "reports" not in [key.label async for key in admin.api_keys.list()]
        assert "reports" in [key.label async for key in admin.api_keys.list(show_revoked=True)]
        with pytest.raises(ValueError, match="time zone"):
            await admin.api_keys.create("reader", expire_time=dt.datetime(2050, 1, 1))  # noqa: DTZ001 - which is wrong


async def test_hashes_of_other_keys(server: Keyed) -> None:
    async with await Client.connect(server.service.address, api_key=server.admin) as admin:
        kept = await admin.api_keys.import_hash(
            "h", "p", label="ci", create_time=dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        )
        assert (kept.prefix, kept.imported, kept.create_time.ToDatetime().year) == ("p", True, 2020)
        assert await admin.api_keys.validate("h")
        assert not await admin.api_keys.validate("g")
        with pytest.raises(reasons.ApiKeyExists):
            await admin.api_keys.import_hash("h", "p")


async def test_the_key_of_the_environment(server: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is taken where none is given."""
    address = server.service.address
    async with await Client.connect(address) as client:
        with pytest.raises(reasons.ApiKeyMissing):
            await anext(client.list_runs())
    monkeypatch.setenv("STEPWELL_API_KEY", server.admin)
    async with await Client.connect(address) as client:
        assert [each.name async for each in client.list_namespaces()] == ["main"]
    async with await Client.connect(address, api_key=new_secret()) as client:
        with pytest.raises(reasons.ApiKeyUnknown):
            await anext(client.list_runs())


async def test_without_asyncio(server: Keyed) -> None:
    def calls() -> None:
        with SyncClient.connect(server.service.address, api_key=server.admin) as admin:
            made = admin.api_keys.create("worker", label="w", namespace="-")
            assert admin.api_keys.get(made.api_key.key_id).namespace == "-"
            assert [key.label for key in admin.api_keys.list(filter='label = "w"')] == ["w"]
            assert admin.api_keys.revoke(made.api_key.key_id)
            admin.api_keys.import_hash("h", "p")
            assert admin.api_keys.validate("h")

    await asyncio.to_thread(calls)


async def stepwell(server: Keyed, *arguments: str, key: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        warm.command(),
        "--address",
        server.service.address,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"STEPWELL_API_KEY": key},
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_keys_by_the_command(server: Keyed) -> None:
    """It shows a key once; what is refused says what to do."""
    code, out, _ = await stepwell(server, "key", "create", "--role", "reader", "--label", "ci", key=server.admin)
    assert code == 0
    secret = out.splitlines()[0]
    code, out, _ = await stepwell(server, "key", "list", "-o", "json", "--filter", 'label = "ci"', key=server.admin)
    (listed,) = json.loads(out)
    assert (listed["prefix"], listed["role"]) == (secret[:12], "API_KEY_ROLE_READER")
    assert secret not in out
    code, out, _ = await stepwell(server, "key", "list", key=server.admin)
    assert "reader" in out
    assert await server.refused("GetNamespace", secret) == ("OK", "")
    code, _, err = await stepwell(server, "key", "list", key=secret)
    assert (code, "ask for one that may" in err) == (1, True)
    code, out, _ = await stepwell(server, "key", "revoke", secret[:12], key=server.admin)
    assert (code, "was revoked" in out) == (0, True)
    code, _, err = await stepwell(server, "run", "list", key=secret)
    assert (code, "ask for another key" in err) == (1, True)
    other = await server.make(Role.READER)
    code, _, err = await stepwell(server, "--namespace", "other", "run", "list", key=other)
    assert (code, "--namespace" in err) == (1, True)


async def test_queues_and_who_one_is(server: Keyed) -> None:
    address = server.service.address
    async with await Client.connect(address, api_key=server.admin) as admin:
        made = await admin.api_keys.create("worker", task_queues=["a", "b-*"])
        assert (await admin.api_keys.create("operator")).api_key.role == int(Role.OPERATOR)
        with pytest.raises(reasons.InvalidField):
            await admin.api_keys.create("reader", task_queues=["a"])
    async with await Client.connect(address, api_key=made.secret) as worker:
        found = await worker.api_keys.caller()
        assert (found.name, found.role, list(found.task_queues)) == (made.api_key.prefix, 2, ["a", "b-*"])
        with pytest.raises(reasons.TaskQueueDenied):
            await Worker(worker, task_queues=["c"], workflows=[], activities=[perform]).run()

    def calls() -> None:
        with SyncClient.connect(address, api_key=server.admin) as client:
            bound = client.api_keys.create("worker", task_queues=["c"])
            assert list(bound.api_key.task_queues) == ["c"]
            assert client.api_keys.caller().role == int(Role.ADMIN)

    await asyncio.to_thread(calls)


async def test_queues_and_who_one_is_by_the_command(server: Keyed) -> None:
    arguments = ("--role", "worker", "--task-queue", "a", "--task-queue", "b-*", "--days", "1")
    code, out, _ = await stepwell(server, "key", "create", *arguments, key=server.admin)
    assert code == 0
    secret = out.splitlines()[0]
    code, out, _ = await stepwell(server, "key", "whoami", key=secret)
    assert (code, out.splitlines()[:4]) == (
        0,
        [f"key {secret[:12]}", "role       worker", "namespace  main", "queues     a b-*"],
    )
    assert "until" in out
    assert secret not in out
    code, out, _ = await stepwell(server, "key", "whoami", "-o", "json", key=server.admin)
    assert (code, json.loads(out)["namespace"]) == (0, "-")
    code, out, _ = await stepwell(server, "key", "list", key=server.admin)
    assert "a b-*" in " ".join(out.split())
    code, _, err = await stepwell(server, "key", "create", "--role", "client", "--task-queue", "a", key=server.admin)
    assert (code, "task_queues" in err) == (1, True)


async def test_a_key_of_a_file_is_read_again(server: Keyed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """When it has changed; one that is away for a moment is what it was."""
    monkeypatch.setattr(_proofs, "_LOOK_SECONDS", 0.0)
    path = tmp_path / "key"
    monkeypatch.setenv("STEPWELL_API_KEY_FILE", str(path))
    first, second = await server.make(Role.READER), await server.make(Role.CLIENT)
    path.write_text(f"{first}\n")
    async with await Client.connect(server.service.address) as client:
        assert (await client.api_keys.caller()).role == int(Role.READER)
        path.unlink()
        assert (await client.api_keys.caller()).role == int(Role.READER)
        other = tmp_path / "other"
        other.write_text(second)
        other.rename(path)
        assert (await client.api_keys.caller()).role == int(Role.CLIENT)
        path.write_text(f"{first}\n{second}\n")
        with pytest.raises(ValueError, match="one line"):
            await client.api_keys.caller()
    path.unlink()
    async with await Client.connect(server.service.address) as client:
        with pytest.raises(FileNotFoundError):
            await client.api_keys.caller()


async def test_a_worker_goes_on_with_its_next_token(database_url: str) -> None:
    """Its session, and the run that it holds, too; who waits for a run's end does not hear of it."""
    with issuing() as issuer:
        rules = [{"claims": {"sub": "worker"}, "role": "worker"}, {"claims": {"sub": "ann"}, "role": "client"}]
        setting = issuer.setting(rules=rules)
        async with keyed(database_url, key_seconds=0.4, jwt_issuers=[setting]) as server:
            given: list[str] = []

            def give(sub: str) -> str:
                token = issuer.token(sub=sub, now=server.service.clock.now().timestamp(), jti=str(len(given)))
                given.append(sub)
                return token

            address = server.service.address
            async with (
                await Client.connect(address, api_key=lambda: give("worker")) as working,
                await Client.connect(address, api_key=lambda: give("ann")) as asking,
            ):
                worker = Worker(working, workflows=[until_told], activities=[], drain_seconds=1.0)
                task = asyncio.create_task(worker.run())
                await worker.is_connected.wait()
                sessions = set(server.service.dispatcher.sessions)
                run = await asking.start_run(until_told)
                result = asyncio.create_task(run.result())

                async def is_waiting() -> bool:
                    return (await run.describe()).phase == RUN_PHASE_SUSPENDED

                await soon(is_waiting)
                ended = given.count("worker")
                await server.call("AdvanceClock", by=Duration(seconds=3_600 + 60))

                async def is_back() -> bool:
                    return given.count("worker") > ended and worker.is_connected.is_set()

                await soon(is_back)
                await run.signal("go", "on")
                async with asyncio.timeout(60):
                    assert await result == "on"
                assert set(server.service.dispatcher.sessions) == sessions
                worker.shutdown()
                await task


@workflow
async def until_told(ctx: Context) -> str:
    return str(await ctx.wait_signal("go"))


@activity
async def perform() -> None:
    """Nothing."""
