"""The audit log: who did what, as far as the settings ask for it, and nothing of what was sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.api.keyed import METHODS, Keyed, bearer, keyed, refused
from tests.api.test_known_keys import connecting, rest_of, watching, welcome
from tests.service import soon

from stepwell_server.api.access import TABLE
from stepwell_server.api.interceptors import audit
from stepwell_server.api.interceptors.audit import Audit
from stepwell_server.model.api_keys import Role, new_secret
from stepwell_server.service import Service, StartError
from stepwell_server.settings import Settings

Records = Callable[[], list[dict[str, Any]]]


@asynccontextmanager
async def audited(database_url: str, path: Path, **given: Any) -> AsyncIterator[tuple[Keyed, Records]]:
    def records() -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    async with keyed(database_url, audit_file=path, **given) as server:
        yield server, records


async def test_a_record_says_who_did_what(database_url: str, tmp_path: Path) -> None:
    async with audited(database_url, tmp_path / "audit") as (server, records):
        traceparent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
        sent = (*bearer(server.admin), ("traceparent", traceparent))
        made = await server.call("CreateApiKey", metadata=sent, role=1, label="reports", request_id="r-1")
        await server.call("RevokeApiKey", prefix=made.api_key.prefix)
        first, second = records()
    assert first.pop("timestamp").endswith("+00:00")
    assert first.pop("peer").startswith("ipv4:127.0.0.1:")
    assert first == {
        "event": "audit",
        "method": "ApiKeyService/CreateApiKey",
        "outcome": "OK",
        "proof": "key",
        "caller": server.admin[:12],
        "role": "admin",
        "object": {
            "key_id": made.api_key.key_id,
            "prefix": made.api_key.prefix,
            "role": "API_KEY_ROLE_READER",
            "label": "reports",
        },
        "request_id": "r-1",
        "trace_id": "0123456789abcdef0123456789abcdef",
    }
    assert (second["method"], second["object"]) == ("ApiKeyService/RevokeApiKey", {"prefix": made.api_key.prefix})


async def test_what_operators_change_is_told_and_what_programs_do_is_not(database_url: str, tmp_path: Path) -> None:
    """As it is unless something else is set."""
    async with audited(database_url, tmp_path / "audit") as (server, records):
        operator, client = await server.make(Role.OPERATOR), await server.make(Role.CLIENT)
        await server.call("StartRun", client, type="t", workflow_id="w")
        await server.call("GetRun", client, workflow_id="w")
        await server.call(
            "UpdateTaskQueue",
            operator,
            task_queue="q",
            rate_limit={"per_second": 1.0, "burst": 1},
            update_mask={"paths": ["rate_limit"]},
        )
        assert (await server.refused("RepairRun", operator, workflow_id="w", repairs=[{"accept": {}}]))[1]
        queue, repair = records()
    assert (queue["method"], queue["role"]) == ("TaskQueueService/UpdateTaskQueue", "operator")
    assert queue["object"] == {"task_queue": "q", "update_mask": ["rate_limit"]}
    assert (repair["outcome"], repair["reason"], repair["object"]) == (
        "FAILED_PRECONDITION",
        "RUN_NOT_PAUSED",
        {"workflow_id": "w"},
    )


async def test_who_is_refused_is_told_of(database_url: str, tmp_path: Path) -> None:
    """As nobody, in the wrong role, for another namespace or queue, by calls and on streams: each once."""
    async with audited(database_url, tmp_path / "audit") as (server, records):
        reader = await server.make(Role.READER)
        worker = await server.make(Role.WORKER, task_queues=["mine"])
        await server.refused("StartRun", "", type="t")
        await server.refused("StartRun", new_secret(), type="t")
        await server.refused("StartRun", reader, type="t", workflow_id="w")
        await server.refused("CreateApiKey", reader, label="x")
        await server.refused("GetRun", reader, namespace="other", workflow_id="w")
        await refused(rest_of(watching(server, "")))
        await refused(welcome(connecting(server, worker), task_queues=["yours"]))
        found = records()
    said = [(each["method"].partition("/")[2], each["reason"], each["caller"], each.get("object")) for each in found]
    named = {"workflow_id": "w"}
    assert said == [
        ("StartRun", "API_KEY_MISSING", "", {"type": "t"}),
        ("StartRun", "API_KEY_UNKNOWN", "", {"type": "t"}),
        ("StartRun", "ROLE_DENIED", reader[:12], {"type": "t", **named}),
        ("CreateApiKey", "ROLE_DENIED", reader[:12], {"label": "x"}),
        ("GetRun", "NAMESPACE_DENIED", reader[:12], named),
        ("WatchRuns", "API_KEY_MISSING", "", None),
        ("Connect", "TASK_QUEUE_DENIED", worker[:12], None),
    ]


async def test_a_flood_of_refusals_does_not_fill_the_disk(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told how many were left out; what admins do is told of meanwhile."""
    monkeypatch.setattr(audit, "_REFUSALS_AT_ONCE", 5)
    monkeypatch.setattr(audit, "_REFUSALS_A_SECOND", 0)
    async with audited(database_url, tmp_path / "audit") as (server, records):
        for name in ("StartRun", "CreateApiKey"):
            for _ in range(10):
                assert (await server.refused(name, ""))[0] == "UNAUTHENTICATED"
        await server.call("ListApiKeys")
        assert [each["outcome"] for each in records()] == [*["UNAUTHENTICATED"] * 5, "OK"]
        monkeypatch.setattr(audit, "_REFUSALS_A_SECOND", 1e9)
        await server.refused("StartRun", "")
        assert records()[-1]["left_out"] == 15


async def test_a_stream_is_told_of_when_it_opens_and_when_it_ends(database_url: str, tmp_path: Path) -> None:
    async with audited(database_url, tmp_path / "audit", audit="changes") as (server, records):
        worker = await server.make(Role.WORKER)
        stream = connecting(server, worker)
        await welcome(stream)

        async def is_told(count: int) -> bool:
            return len(records()) == count

        await soon(lambda: is_told(1))
        stream.cancel()
        await soon(lambda: is_told(2))
        outcomes = [(each["method"], each["outcome"], each["caller"]) for each in records()]
    assert outcomes == [
        ("WorkerService/Connect", "OPEN", worker[:12]),
        ("WorkerService/Connect", "CANCELLED", worker[:12]),
    ]


@pytest.mark.parametrize(
    ("level", "told"),
    [
        ("off", []),
        ("admin", ["CreateApiKey", "ListApiKeys", "UpdateNamespace"]),
        ("changes", ["CreateApiKey", "ListApiKeys", "StartRun", "UpdateNamespace"]),
        ("all", ["CreateApiKey", "GetRun", "ListApiKeys", "StartRun", "UpdateNamespace"]),
    ],
)
async def test_the_level_says_which_calls_are_told_of(
    database_url: str, tmp_path: Path, level: str, told: list[str]
) -> None:
    async with audited(database_url, tmp_path / "audit", audit=level) as (server, records):
        await server.call("StartRun", type="t", workflow_id="w")
        await server.call("GetRun", workflow_id="w")
        await server.call("CreateApiKey", role=1)
        await server.call("ListApiKeys")
        await server.call("UpdateNamespace", retention={"seconds": 86_400}, update_mask={"paths": ["retention"]})
        await server.refused("StartRun", "", type="t")
        found = records()
    assert sorted(each["method"].partition("/")[2] for each in found if each["outcome"] == "OK") == told
    assert [each["reason"] for each in found if each["outcome"] != "OK"] == (
        [] if level == "off" else ["API_KEY_MISSING"]
    )


def test_what_is_not_told_of_costs_nothing() -> None:
    """Its handler is the very one that there was."""
    handler: Any = object()
    none, some = Audit("off", print), Audit("admin", print)
    assert all(
        none.wrap(f"/stepwell.v1.{service}/{name}", handler) is handler for service in TABLE for name in TABLE[service]
    )
    for name in ("StartRun", "SignalRun", "GetRun"):
        assert some.wrap(f"/stepwell.v1.RunService/{name}", handler) is handler
    assert some.wrap("/grpc.health.v1.Health/Check", handler) is handler


async def test_nothing_of_what_was_sent_is_in_a_record(database_url: str, tmp_path: Path) -> None:
    """Of every call: neither payloads nor secrets."""
    async with audited(database_url, tmp_path / "audit", audit="all") as (server, records):
        marked = {"json": '"MARKED"'}
        await server.call("StartRun", type="t", workflow_id="w", input=marked)
        await server.call("SignalRun", workflow_id="w", signal_name="s", payload=marked)
        await server.call("ImportApiKey", key_hash="MARKED", prefix="p")
        await server.call("ValidateApiKey", key_hash="MARKED")
        made = await server.call("CreateApiKey", role=1)
        for method in METHODS.values():
            if method.is_unary:
                await server.refused(method.name, made.secret)
        text = json.dumps(records())
    assert "MARKED" not in text
    for secret in (made.secret, server.admin):
        assert secret[12:] not in text
    assert text.count('"SignalRun"') == 0
    assert text.count("RunService/SignalRun") == 2


async def test_a_file_that_was_moved_is_begun_anew(database_url: str, tmp_path: Path) -> None:
    path, moved = tmp_path / "audit", tmp_path / "audit.1"
    async with audited(database_url, path) as (server, records):
        await server.call("ListApiKeys")
        path.rename(moved)
        await server.call("ListApiKeys")
        assert len(records()) == 1
    assert len(moved.read_text().splitlines()) == 1


async def test_without_a_file_records_go_with_the_logs(database_url: str) -> None:
    with capture_logs() as logs:
        async with keyed(database_url) as server:
            await server.call("ListApiKeys")
    (record,) = [each for each in logs if each["event"] == "audit"]
    assert (record["method"], record["log_level"]) == ("ApiKeyService/ListApiKeys", "info")


async def test_a_file_that_cannot_be_written_stops_the_start(database_url: str, tmp_path: Path) -> None:
    """Who asked for a record must not go without one."""
    service = Service(Settings(database_url=database_url, port=0, audit_file=tmp_path / "none" / "audit"))
    with pytest.raises(StartError, match="audit log"):
        await service.start()


async def test_long_names_are_cut(database_url: str, tmp_path: Path) -> None:
    async with audited(database_url, tmp_path / "audit") as (server, records):
        long = "x" * 100_000
        await asyncio.gather(*(server.refused("StartRun", "", workflow_id=long, request_id=long) for _ in range(3)))
        assert all(len(json.dumps(each)) < 1_000 for each in records())
        assert len(records()) == 3
