"""What a client hears of runs whose history was archived or pruned: never that they returned nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from tests.api.stores import COMPLETED, Store
from tests.sdk.live import Live, live
from tests.sdk.test_cli_live import stepwell

from stepwell import RunHandle, errors, reasons
from stepwell.sync import Client as SyncClient
from stepwell.v1 import types_pb2

SECONDS = 60


@pytest_asyncio.fixture
async def here(database_url: str) -> AsyncIterator[Live]:
    async with live(database_url) as made:
        yield made


async def returned(here: Live, name: str, value: str = '"a value"') -> str:
    """A run that returned something."""
    store = Store(here.server, "run")
    run_id = str((await store.call("CreateRun", type="t", workflow_id=name)).run_id)
    await store.call("MarkRunCompleted", run_id=run_id, result=types_pb2.Payload(json=value))
    return run_id


async def test_the_result_of_an_archived_run_is_refused_by_name(here: Live) -> None:
    run_id = await returned(here, "w")
    async with asyncio.timeout(SECONDS):
        assert await here.client.run(run_id).result() == "a value"
        assert await here.client.retention.mark_archived(run_id, archive_uri="s3://bucket/w.json")
        handles: list[RunHandle[Any]] = [here.client.run(run_id), here.client.run(workflow_id="w")]
        for handle in handles:
            with pytest.raises(reasons.RunPurged, match=r"archived to s3://bucket/w\.json") as caught:
                await handle.result()
            assert caught.value.metadata == {"run_id": run_id, "archive_uri": "s3://bucket/w.json"}
            with pytest.raises(reasons.RunPurged):
                [event async for event in handle.follow()]
    run = await here.client.run(run_id).describe()
    assert (run.purged, run.phase) == (True, COMPLETED)


async def test_neither_is_a_pruned_result_nothing_for_threads_and_commands(here: Live) -> None:
    run_id = await returned(here, "w")
    later = datetime.now(UTC) + timedelta(hours=1)
    assert [count async for count in here.client.retention.prune_events(later, of="ended_runs")] == [2]

    def ask() -> None:
        with SyncClient.connect(here.server.service.address) as client:
            client.run(run_id).result(SECONDS)

    with pytest.raises(reasons.RunPurged, match="its history was pruned"):
        await asyncio.to_thread(ask)
    code, out, err = await stepwell(here.server, "run", "wait", run_id)
    assert (code, out) == (1, "")
    assert "its history was pruned" in err
    code, _, err = await stepwell(here.server, "run", "watch", run_id)
    assert code == 1
    assert "its history was pruned" in err


async def test_how_a_purged_run_failed_is_still_told(here: Live) -> None:
    store = Store(here.server, "run")
    run_id = (await store.call("CreateRun", type="t")).run_id
    failure = types_pb2.Failure(type="Bad", message="no")
    await store.call("MarkRunFailed", run_id=run_id, terminal=True, failure=failure)
    assert await here.client.retention.mark_archived(run_id, archive_uri="there")
    async with asyncio.timeout(SECONDS):
        with pytest.raises(errors.RunFailed) as caught:
            await here.client.run(run_id).result()
    assert (caught.value.phase, caught.value.failure) == ("FAILED", None)


async def test_following_a_run_passes_over_events_that_were_removed(here: Live) -> None:
    """The callers' last event is gone; its number is still counted."""
    run_id = (await Store(here.server, "run").call("CreateRun", type="t")).run_id
    events = Store(here.server, "event")
    await events.call("AppendEvent", run_id=run_id, type="note")
    seen: list[str] = []
    handle: RunHandle[Any] = here.client.run(run_id)
    async with asyncio.timeout(SECONDS):
        await events.call("DeleteEvents", run_id=run_id)
        async for event in handle.follow():
            seen.append(event.type)
            if event.type == "RunStarted":
                await Store(here.server, "run").call("MarkRunCompleted", run_id=run_id)
    assert seen == ["RunStarted", "RunCompleted"]
