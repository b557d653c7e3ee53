"""API keys by the client and by the command, on a server that asks for them."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests import warm
from tests.api.keyed import Keyed, keyed

from stepwell import Client, reasons
from stepwell.sync import Client as SyncClient
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
