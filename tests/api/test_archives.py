"""Archives: what is written, what stays, and what becomes of a run that is opened again meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text
from tests.api.stores import Store
from tests.api.stores import json as payload
from tests.api.test_retention import clean, delete, ended, later
from tests.api.test_watches import watching
from tests.engine.replica import look
from tests.service import TIMEOUT, Service, refusal, serving, soon
from tests.stream.kit import BLOCKED

from stepwell.v1 import history_pb2, namespaces_pb2, repairs_pb2, retention_pb2, runs_pb2, types_pb2
from stepwell_server.store import archives, batches, object_stores


@pytest_asyncio.fixture
async def service(database_url: str, tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(database_url, committers=2, archive_folder=tmp_path) as running:
        yield running


async def set_archive(service: Service, url: str) -> Any:
    fields: dict[str, Any] = {"archive_url": url, "update_mask": {"paths": ["archive_url"]}}
    request = namespaces_pb2.UpdateNamespaceRequest(**fields)
    return (await service.namespace_calls.UpdateNamespace(request, timeout=TIMEOUT)).namespace


async def archive(service: Service, **fields: Any) -> Any:
    request = retention_pb2.ArchiveRunsRequest(**{"cutoff": await later(service), **fields})
    return await service.retention.ArchiveRuns(request, timeout=TIMEOUT)


async def archivable(service: Service, **fields: Any) -> Any:
    request = retention_pb2.ListArchivableRunsRequest(**{"cutoff": await later(service), **fields})
    return await service.retention.ListArchivableRuns(request, timeout=TIMEOUT)


async def mark(service: Service, **fields: Any) -> bool:
    request = retention_pb2.MarkRunArchivedRequest(**fields)
    return bool((await service.retention.MarkRunArchived(request, timeout=TIMEOUT)).archived)


async def export(service: Service, run_id: str) -> bytes:
    parts = service.retention.ExportRun(retention_pb2.ExportRunRequest(run_id=run_id), timeout=TIMEOUT)
    return b"".join([part.data async for part in parts])


async def rich(service: Service, name: str = "w") -> str:
    """An ended run with a step, a signal, and events of its caller's."""
    run_id = (
        await Store(service, "run").call("CreateRun", type="t", workflow_id=name, input=payload('{"n": 1}'))
    ).run_id
    await Store(service, "step").call("SaveStep", run_id=run_id, step_name="s", value=payload('"saved"'))
    await Store(service, "event").call("AppendEvent", run_id=run_id, type="note", caller_seq=1, payload=payload("[1]"))
    request = runs_pb2.SignalRunRequest(run_id=run_id, signal_name="go", request_id=f"id-{name}")
    await service.runs.SignalRun(request, timeout=TIMEOUT)
    await service.end(run_id)
    return str(run_id)


async def count_events(service: Service, run_id: str) -> int:
    request = history_pb2.ListEventsRequest(run_id=run_id)
    return len((await service.history.ListEvents(request, timeout=TIMEOUT)).events)


async def test_a_run_is_written_and_its_row_stays(service: Service, tmp_path: Path) -> None:
    run_id = await rich(service)
    await service.begin()
    before = await export(service, run_id)
    assert (await set_archive(service, f"file://{tmp_path}/kept")).archive_url == f"file://{tmp_path}/kept"
    assert [run.run_id for run in (await archivable(service)).runs] == [run_id]
    assert (await archive(service, dry_run=True)).count == 1
    assert (await archive(service)).count == 1
    path = tmp_path / "kept/main" / f"{run_id}.json"
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    run = await service.get(run_id)
    assert (run.archive_uri, run.workflow_id) == (f"file://{path}", "w")
    assert run.archive_time.seconds > 0
    assert not run.HasField("result")
    assert await count_events(service, run_id) == 0
    assert not (await archivable(service)).runs
    assert (await archive(service)).count == 0
    # It goes with a clean-up as any other.
    assert (await clean(service)).count == 1


async def test_the_document_tells_all(service: Service) -> None:
    run_id = await rich(service)
    told = json.loads(await export(service, run_id))
    assert told["format_version"] == 1
    assert (told["run"]["run_id"], told["run"]["phase"], told["run"]["namespace"]) == (run_id, "TERMINATED", "main")
    (step,) = told["steps"]
    assert (step["name"], step["kind"], step["state"]) == ("s", "LOCAL", "COMPLETED")
    events = {event["number"]: event for event in told["events"]}
    assert list(events) == list(range(1, told["run"]["event_count"] + 1))
    assert events[1]["payload"] == {"json": '{"n": 1}'}
    assert events[step["end_event"]]["payload"] == {"json": '"saved"'}
    (note,) = (event for event in told["events"] if event["origin"] == "CALLER")
    assert (note["type"], note["payload"], note["caller_seq"]) == ("note", {"json": "[1]"}, 1)
    assert told["rows"]["signals"][0]["signal_id"] == "id-w"
    assert "events" not in told["rows"]


async def test_a_long_history_comes_in_parts(service: Service) -> None:
    run_id, store = await service.begin(), Store(service, "event")
    large = payload(json.dumps("x" * 700_000))
    await asyncio.gather(*(store.call("AppendEvent", run_id=run_id, type="e", payload=large) for _ in range(6)))
    parts = service.retention.ExportRun(retention_pb2.ExportRunRequest(run_id=run_id), timeout=TIMEOUT)
    sizes = [len(part.data) async for part in parts]
    assert len(sizes) > 3
    assert max(sizes) <= 1024 * 1024
    assert len(json.loads(await export(service, run_id))["events"]) == 7


async def test_those_that_ended_first_come_first(service: Service) -> None:
    first, second, third = [await service.begin(workflow_id=name) for name in "abc"]
    for run_id in (second, third, first):
        await service.end(run_id)
    await service.begin()
    found, token = [], ""
    cutoff = await later(service)
    while True:
        page = await archivable(service, cutoff=cutoff, page_size=1, page_token=token)
        found += [run.run_id for run in page.runs]
        token = page.next_page_token
        if not token:
            break
    assert found == [second, third, first]
    assert [run.run_id for run in (await archivable(service, filter='workflow_id = "c"')).runs] == [third]
    end = (await service.get(third)).end_time
    assert [run.run_id for run in (await archivable(service, cutoff=end)).runs] == [second]


async def test_a_caller_archives_by_itself(service: Service) -> None:
    run_id = await rich(service)
    assert await refusal(mark(service, run_id=await service.begin(), archive_uri="x")) == (
        "FAILED_PRECONDITION",
        "RUN_NOT_ENDED",
    )
    assert not await mark(service, workflow_id="unknown", archive_uri="x")
    at = Timestamp(seconds=1_700_000_000)
    once: dict[str, Any] = {"workflow_id": "w", "archive_uri": "s3://theirs/1", "archive_time": at, "request_id": "r"}
    assert await mark(service, **once)
    assert await mark(service, **once)
    run = await service.get(run_id)
    assert (run.archive_uri, run.archive_time) == ("s3://theirs/1", at)
    assert await count_events(service, run_id) == 0
    assert await mark(service, run_id=run_id, archive_uri="s3://theirs/2")
    assert (await service.get(run_id)).archive_uri == "s3://theirs/2"
    for uri in ("", "a\0", "a\nb", "x" * 2049):
        assert (await refusal(mark(service, run_id=run_id, archive_uri=uri)))[1] == "INVALID_FIELD"


@pytest.mark.parametrize("call", ["RetryRun", "RewindRun"])
async def test_an_archived_run_is_not_opened_again(service: Service, call: str) -> None:
    (run_id,) = await ended(service)
    await mark(service, run_id=run_id, archive_uri="x")
    fields: dict[str, Any] = {"step": {"name": "s"}} if call == "RewindRun" else {}
    request = getattr(repairs_pb2, f"{call}Request")(run_id=run_id, **fields)
    assert await refusal(getattr(service.runs, call)(request)) == ("FAILED_PRECONDITION", "RUN_PURGED")


async def test_of_a_retry_and_an_archiving_one_wins_wholly(service: Service) -> None:
    """At the same time: the run is open and whole, or archived and refused; also on another replica."""
    async with serving(service.settings.database_url or "") as other:
        for _ in range(20):
            (run_id,) = await ended(service)
            calls = (mark(service, run_id=run_id, archive_uri="x"), other.runs.RetryRun(retry(run_id)))
            marked, retried = await asyncio.gather(*calls, return_exceptions=True)
            if marked is True:
                assert isinstance(retried, Exception)
                assert await refusal(other.runs.RetryRun(retry(run_id))) == ("FAILED_PRECONDITION", "RUN_PURGED")
            else:
                assert not isinstance(retried, Exception)
                assert await count_events(service, run_id) == 3


def retry(run_id: str) -> repairs_pb2.RetryRunRequest:
    return repairs_pb2.RetryRunRequest(run_id=run_id)


async def test_a_retry_that_has_read_the_run_before_it_was_archived(service: Service) -> None:
    """It holds the row as it was, and finds another in its place."""
    (run_id,) = await ended(service)
    async with look(service.settings.database_url or "") as database:
        key = await database.value("SELECT run_key FROM run_ids")
    async with service.database.pool.begin() as connection:
        assert await archives._purge(connection, [key], service.clock.now(), "x") == 1
        retried = asyncio.ensure_future(service.runs.RetryRun(retry(run_id), timeout=TIMEOUT))

        async def is_held_up() -> bool:
            return bool(await connection.scalar(text(BLOCKED)))

        await soon(is_held_up)
    assert await refusal(retried) == ("FAILED_PRECONDITION", "RUN_PURGED")


async def test_a_retry_that_was_decided_before_and_is_written_after(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is archived between the two, and not opened again without its history."""
    (run_id,) = await ended(service)
    write = batches.write
    marked: list[bool] = []

    async def late(*args: Any) -> None:
        if not marked:
            marked.append(await mark(service, run_id=run_id, archive_uri="x"))
        await write(*args)

    monkeypatch.setattr(batches, "write", late)
    assert await refusal(service.runs.RetryRun(retry(run_id), timeout=TIMEOUT)) == ("FAILED_PRECONDITION", "RUN_PURGED")
    assert marked == [True]


async def test_what_is_opened_again_while_it_is_written_stays(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_id,) = await ended(service)
    await set_archive(service, f"file://{tmp_path}")
    put = object_stores.put

    async def slowly(*args: Any) -> str:
        uri = await put(*args)
        await service.runs.RetryRun(retry(run_id), timeout=TIMEOUT)
        await service.end(run_id)
        return uri

    monkeypatch.setattr(object_stores, "put", slowly)
    assert (await archive(service)).count == 0
    assert await count_events(service, run_id) == 4
    monkeypatch.setattr(object_stores, "put", put)
    assert (await archive(service)).count == 1
    assert len(json.loads((tmp_path / "main" / f"{run_id}.json").read_bytes())["events"]) == 4


async def test_without_an_archive_nothing_is_archived(service: Service, tmp_path: Path) -> None:
    (run_id,) = await ended(service)
    assert await refusal(archive(service)) == ("FAILED_PRECONDITION", "ARCHIVE_NOT_SET")
    (tmp_path / "file").touch()
    await set_archive(service, f"file://{tmp_path}/file")
    assert await refusal(archive(service)) == ("UNAVAILABLE", "ARCHIVE_UNAVAILABLE")
    assert await count_events(service, run_id) == 2
    await set_archive(service, "")
    assert await refusal(archive(service)) == ("FAILED_PRECONDITION", "ARCHIVE_NOT_SET")
    assert await delete(service, run_id=run_id)


@pytest.mark.parametrize("far", [False, True], ids=["the same replica", "another"])
async def test_a_watch_that_comes_late_hears_of_runs_archived_since(
    service: Service, database_url: str, *, far: bool
) -> None:
    """All that ended after the cursor are told in their order, those without history as such."""
    async with watching(service) as before:
        cursor = before.cursor
    ids = [await rich(service, name) for name in "ab"]
    assert await mark(service, run_id=ids[0], archive_uri="there")
    async with serving(database_url) as other, watching(other if far else service, cursor) as watcher:
        assert await watcher.until(2) == ids
    assert [(end.purged, end.phase, end.failure.message) for end in watcher.ends] == [
        (True, types_pb2.RUN_PHASE_TERMINATED, ""),
        (False, types_pb2.RUN_PHASE_TERMINATED, "test"),
    ]
