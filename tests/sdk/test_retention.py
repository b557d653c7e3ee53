"""What the client and the command remove, against a whole service."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.sdk.test_cli_live import stepwell
from tests.stream.kit import Replica, replica

from stepwell import Client, reasons
from stepwell.sync import Client as SyncClient


@pytest_asyncio.fixture
async def one(database_url: str) -> Any:
    async with replica(database_url) as made:
        yield made


async def test_runs_are_deleted_one_by_one_and_by_a_time(one: Replica) -> None:
    async with await Client.connect(one.service.address) as client:
        handles = [await client.start_run("t", workflow_id=f"w{n}", task_queue="held") for n in range(4)]
        with pytest.raises(reasons.RunNotEnded):
            await client.retention.delete(workflow_id="w0")
        assert await client.retention.delete(workflow_id="w0", force=True)
        assert not await client.retention.delete(handles[0].run_id)
        for handle in handles[1:3]:
            await handle.terminate()
        later = datetime.now(UTC) + timedelta(hours=1)
        only = 'workflow_id = "w*"'
        assert [count async for count in client.retention.clean_up(later, dry_run=True, filter=only)] == [2]
        assert [count async for count in client.retention.clean_up(later, filter=only)] == [2]
        assert [run.workflow_id async for run in client.list_runs()] == ["w3"]
        with pytest.raises(ValueError, match="no time zone"):
            await anext(client.retention.clean_up(datetime.now()))  # noqa: DTZ005 - refused for that


async def test_runs_are_exported_archived_and_marked(one: Replica) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    async with await Client.connect(one.service.address) as client:
        handles = [await client.start_run("t", workflow_id=f"w{n}", task_queue="held") for n in range(2)]
        for handle in handles:
            await handle.terminate()
        told = json.loads(b"".join([part async for part in client.retention.export(workflow_id="w0")]))
        assert told["run"]["run_id"] == handles[0].run_id
        with pytest.raises(reasons.RunNotFound):
            await anext(client.retention.export(workflow_id="none"))
        assert [run.workflow_id async for run in client.retention.archivable(later)] == ["w0", "w1"]
        assert await client.retention.mark_archived(workflow_id="w0", archive_uri="here", archive_time=later)
        assert [run.workflow_id async for run in client.retention.archivable(later)] == ["w1"]
        with pytest.raises(reasons.ArchiveNotSet):
            await anext(client.retention.archive(later))
        with pytest.raises(reasons.ArchivesNotSupported):
            await client.update_namespace("main", archive_url="file:///somewhere")
        changed = await client.update_namespace("main", retention=timedelta(days=1), archive_url="s3://bucket")
        assert (changed.retention.seconds, changed.archive_url) == (86_400, "s3://bucket")
        assert [count async for count in client.retention.archive(later, dry_run=True)] == [1]
        changed = await client.update_namespace("main", retention="forever")
        assert (changed.HasField("retention"), changed.archive_url) == (False, "s3://bucket")
        assert await client.get_namespace("main") == changed
        with pytest.raises(reasons.NamespaceNotFound):
            await client.get_namespace("none")


async def test_histories_are_pruned(one: Replica) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    async with await Client.connect(one.service.address) as client:
        ended, opened = [await client.start_run("t", workflow_id=name, task_queue="held") for name in "ab"]
        await ended.terminate()
        assert [count async for count in client.retention.prune_events(later, of="callers")] == [0]
        assert [count async for count in client.retention.prune_events(later, of="ended_runs")] == [2]
        assert [event async for event in ended.history()] == []
        assert [event.type async for event in opened.history()] == ["RunStarted"]


async def test_a_namespace_and_a_run_by_command(one: Replica, tmp_path: Path) -> None:
    code, out, _ = await stepwell(one, "namespace", "update", "main", "--retention", "30d", "-o", "json")
    assert (code, json.loads(out)["retention"]) == (0, "2592000s")
    _, out, _ = await stepwell(one, "namespace", "update", "main", "--retention", "forever", "--archive", "gs://bucket")
    assert out.split() == ["namespace", "main", "retention", "for", "ever", "archive", "gs://bucket"]
    for wrong in ([], ["--retention", "soon"], ["--archive", "http://x"]):
        code, _, err = await stepwell(one, "namespace", "update", "main", *wrong)
        assert (code, err.startswith("error: ")) == (1, True), wrong
    run_id = await one.start(workflow_id="w")
    code, out, _ = await stepwell(one, "run", "export", "w")
    assert (code, json.loads(out)["run"]["run_id"]) == (0, run_id)
    await stepwell(one, "run", "export", run_id, "--to", str(tmp_path / "run.json"))
    assert (tmp_path / "run.json").read_text() == out
    code, _, err = await stepwell(one, "run", "export", "w", "--to", str(tmp_path / "no/run.json"))
    assert (code, "cannot be written" in err) == (1, True)
    code, out, _ = await stepwell(one, "retention", "archive", "--before", "0s", "--dry-run")
    assert (code, out) == (0, "0 runs would be archived\n")


async def test_programs_without_asyncio(one: Replica) -> None:
    import asyncio  # noqa: PLC0415 - for the thread alone

    def work() -> tuple[bool, list[int]]:
        with SyncClient.connect(one.service.address) as client:
            client.start_run("t", workflow_id="a", task_queue="held").terminate()
            client.start_run("t", workflow_id="b", task_queue="held").terminate()
            assert b"RunTerminated" in b"".join(client.retention.export(workflow_id="b"))
            assert client.update_namespace("main", retention=60).retention.seconds == 60
            assert client.get_namespace("main").retention.seconds == 60
            deleted = client.retention.delete(workflow_id="a")
            return deleted, list(client.retention.clean_up(datetime.now(UTC) + timedelta(hours=1)))

    assert await asyncio.to_thread(work) == (True, [1])


async def test_the_command(one: Replica) -> None:
    run_id = await one.start(workflow_id="w")
    code, _, err = await stepwell(one, "run", "delete", run_id)
    assert (code, "end it first" in err) == (1, True)
    code, out, _ = await stepwell(one, "run", "delete", "w", "--force", "-o", "json")
    assert (code, json.loads(out)) == (0, {"run": "w", "deleted": True})
    _, out, _ = await stepwell(one, "run", "delete", "w")
    assert out == "there is no run w\n"
    await one.start()
    for before, count in (("30d", 0), ("0s", 0), ("2999-01-01T00:00:00Z", 0)):
        code, out, _ = await stepwell(one, "retention", "cleanup", "--before", before, "-o", "json")
        assert (code, json.loads(out)["count"]) == (0, count)
    for wrong in ("yesterday", "2026-01-01T00:00:00", "d", "1e400d"):
        code, _, err = await stepwell(one, "retention", "cleanup", "--before", wrong)
        assert (code, err.startswith("error: ")) == (1, True), wrong
