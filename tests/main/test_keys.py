"""API keys as an operator meets them: the first one, who is let in without, and what is never told."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.api.keyed import bearer, refused
from tests.main.program import UNSET, outcome, program
from typer.testing import CliRunner

from stepwell.v1 import api_keys_pb2, api_keys_pb2_grpc, namespaces_pb2, namespaces_pb2_grpc, runs_pb2, runs_pb2_grpc
from stepwell_server.main import app
from stepwell_server.model.api_keys import hash_of, new_secret

ON = {"REQUIRE_KEYS": "true"}
Run = Callable[..., tuple[int, str]]


async def made(database_url: str, *arguments: str) -> dict[str, Any]:
    code, said = await outcome("keys", "create", "-o", "json", *arguments, DATABASE_URL=database_url)
    assert code == 0, said
    found: dict[str, Any] = json.loads(said.splitlines()[0])
    return found


async def asked(address: str, key: str) -> tuple[str, str]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = namespaces_pb2_grpc.NamespaceServiceStub(channel)
        return await refused(stub.ListNamespaces(namespaces_pb2.ListNamespacesRequest(), metadata=bearer(key)))


async def to_its_end(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_serve_lets_nobody_in_without_a_key(database_url: str) -> None:
    """By default. The first key is made in the database; one that is made later is taken at once."""
    async with program("serve", "--port", "0", DATABASE_URL=database_url, REQUIRE_KEYS=UNSET) as server:
        address = (await server.say("serving"))["address"]
        assert await asked(address, "") == ("UNAUTHENTICATED", "API_KEY_MISSING")
        first = await made(database_url, "--role", "admin", "--label", "first")
        assert (first["role"], first["namespace"], first["created"]) == ("admin", "-", True)
        assert (await asked(address, first["secret"]))[0] == "OK"
        again = await made(database_url, "--role", "admin", "--label", "first", "--reuse-label")
        assert (again["key_id"], again["created"], again["secret"]) == (first["key_id"], False, "")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, database_url: str) -> Run:
    """Runs the program in this process, on a fresh database unless it is told another."""

    def run(*arguments: str, **variables: str) -> tuple[int, str]:
        for name, value in {"DATABASE_URL": database_url, **variables}.items():
            monkeypatch.setenv(f"STEPWELL_{name}", value)
        done = CliRunner().invoke(app, [*arguments])
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done.exit_code, done.output

    return run


def test_an_empty_setting_lets_nobody_in(here: Run) -> None:
    code, said = here("serve", "--port", "0", REQUIRE_KEYS="")
    assert code == 2
    assert "require_keys" in said


def test_keys_are_listed_and_revoked_in_the_database(here: Run) -> None:
    def create(*arguments: str) -> dict[str, Any]:
        code, said = here("keys", "create", "-o", "json", *arguments)
        assert code == 0
        found: dict[str, Any] = json.loads(said)
        return found

    reader = create("--role", "reader", "--days", "30")
    assert (reader["namespace"], bool(reader["expire_time"])) == ("main", True)
    worker = create("--role", "worker", "--namespace", "-")
    code, said = here("keys", "list", "-o", "json")
    listed = [json.loads(line)["key_id"] for line in said.splitlines()]
    assert (code, listed) == (0, [worker["key_id"], reader["key_id"]])
    assert reader["secret"] not in said
    assert hash_of(reader["secret"]) not in said
    assert reader["prefix"] in here("keys", "list")[1]
    for name, code in ((reader["prefix"], 0), (reader["prefix"], 1), (worker["key_id"], 0), ("none", 1)):
        assert here("keys", "revoke", name)[0] == code
    assert here("keys", "list", "-o", "json") == (0, "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--role", "admin", "--namespace", "main"), "leave --namespace out"),
        (("--role", "reader", "--reuse-label"), "--label"),
        (("--role", "reader", "--namespace", "none"), "Namespace none does not exist"),
        (("--role", "king"), "king"),
    ],
)
def test_what_no_key_can_be_made_of_is_one_sentence(here: Run, arguments: tuple[str, ...], told: str) -> None:
    code, said = here("keys", "create", *arguments)
    assert code != 0
    assert told in said


def test_no_key_without_a_schema(here: Run, empty_database_url: str) -> None:
    code, said = here("keys", "create", "--role", "admin", DATABASE_URL=empty_database_url)
    assert code == 1
    assert "stepwell-server migrate" in said


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "db.example"])  # noqa: S104 - which is refused
def test_dev_serves_nobody_else_without_keys(here: Run, data_dir: Path, host: str) -> None:
    code, said = here("dev", "--host", host, "--port", "0", "--data-dir", str(data_dir))
    assert code == 2
    assert "STEPWELL_REQUIRE_KEYS=true" in said
    assert not data_dir.exists()


@pytest.mark.long
async def test_dev_with_keys_makes_the_first_itself(data_dir: Path) -> None:
    """Before anybody can call, and shows it once, to whoever started it and not in the log."""
    folder = ("--data-dir", str(data_dir))
    async with program("dev", "--port", "0", *folder, LOG_FORMAT="json", **ON) as server:
        address = (await server.say("serving"))["address"]
        assert await asked(address, "") == ("UNAUTHENTICATED", "API_KEY_MISSING")
        assert server.process.stdout is not None
        shown = ""
        while "end " not in shown:
            shown += (await server.process.stdout.readline()).decode()
        (secret,) = [word for word in shown.split() if word.startswith("swk_")]
        assert (await asked(address, secret))[0] == "OK"
        server.send(signal.SIGTERM)
        await server.say("stopped")
        assert await server.end() == 0
        assert secret not in json.dumps(server.lines) + server.printed
    async with program("dev", "--port", "0", *folder, LOG_FORMAT="json", **ON) as server:
        await server.say("serving")
        server.send(signal.SIGTERM)
        assert await server.end() == 0
        assert "swk_" not in server.printed


async def test_no_log_holds_a_key(database_url: str) -> None:
    """Whatever is done with keys, right and wrong ones, at the most talkative level."""
    admin = (await made(database_url, "--role", "admin"))["secret"]
    wrong, imported = new_secret(), "5f" * 32
    async with (
        program("serve", "--port", "0", DATABASE_URL=database_url, LOG_LEVEL="debug", **ON) as server,
    ):
        address = (await server.say("serving"))["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            keys: Any = api_keys_pb2_grpc.ApiKeyServiceStub(channel)
            request = api_keys_pb2.CreateApiKeyRequest(role=api_keys_pb2.API_KEY_ROLE_READER, request_id="r")
            created = (await keys.CreateApiKey(request, metadata=bearer(admin))).secret
            await keys.ImportApiKey(
                api_keys_pb2.ImportApiKeyRequest(key_hash=imported, prefix="p"), metadata=bearer(admin)
            )
            runs: Any = runs_pb2_grpc.RunServiceStub(channel)
            watch = runs.WatchRuns(runs_pb2.WatchRunsRequest(), metadata=bearer(created))
            watched = asyncio.ensure_future(refused(to_its_end(watch)))
            for key in (admin, created, wrong, f"{wrong}x", imported):
                await asked(address, key)
            await keys.RevokeApiKey(api_keys_pb2.RevokeApiKeyRequest(prefix=created[:12]), metadata=bearer(admin))
            async with asyncio.timeout(60):
                assert await watched == ("UNAUTHENTICATED", "API_KEY_REVOKED")
        server.send(signal.SIGTERM)
        await server.say("stopped")
        await server.end()
        told = json.dumps(server.lines) + server.printed
    for secret in (admin, created, wrong):
        assert secret not in told
        assert secret[12:] not in told
        assert hash_of(secret) not in told
    assert imported not in told
