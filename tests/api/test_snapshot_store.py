"""SnapshotStore: kept by number, read by the greatest, replaced, bounded, and gone with their run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.api.stores import Store, create, json
from tests.engine.replica import look
from tests.service import Service, refusal, serving, soon

from stepwell.v1 import types_pb2
from stepwell_server.store import snapshots

BOTH_WAIT = """
    SELECT count(*) = 2 FROM pg_locks
    WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
UNKNOWN = "00000000-0000-7000-8000-000000000000"


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


@pytest.fixture
def store(service: Service) -> Store:
    return Store(service, "snapshot")


async def test_the_greatest_number_is_the_latest(service: Service, store: Store) -> None:
    """Not the newest. One of the same number is replaced."""
    run_id = await create(service, workflow_id="w")
    assert not (await store.call("GetSnapshot", run_id=run_id)).found
    for seq in (1, 5, 3):
        assert (await store.call("CreateSnapshot", run_id=run_id, event_seq=seq, state=json(f"{seq}"))).created
    latest = (await store.call("GetSnapshot", workflow_id="w")).snapshot
    assert (latest.run_id, latest.event_seq, latest.state.json) == (run_id, 5, "5")
    again = await store.call("CreateSnapshot", workflow_id="w", event_seq=5, state=json('"new"'))
    assert not again.created
    latest = (await store.call("GetSnapshot", run_id=run_id, event_seq=5)).snapshot
    assert (latest.state.json, latest.create_time) == ('"new"', again.create_time)
    assert (await store.call("GetSnapshot", run_id=run_id, event_seq=1)).snapshot.state.json == "1"
    assert not (await store.call("GetSnapshot", run_id=run_id, event_seq=0)).found
    assert not (await store.call("GetSnapshot", run_id=UNKNOWN)).found


async def test_they_are_listed_without_their_state(service: Service, store: Store) -> None:
    run_id = await create(service)
    for seq in range(5):
        await store.call("CreateSnapshot", run_id=run_id, event_seq=seq, state=types_pb2.Payload(data=b"x" * 100))
    listed = await store.pages("ListSnapshots", "snapshots", run_id=run_id, page_size=2)
    assert [each.event_seq for each in listed] == [4, 3, 2, 1, 0]
    assert all(100 <= each.size_bytes < 200 and not each.HasField("state") for each in listed)
    assert await store.pages("ListSnapshots", "snapshots", run_id=UNKNOWN) == []


async def test_an_ended_run_keeps_them_and_takes_more(service: Service, store: Store) -> None:
    run_id = await service.begin()
    await store.call("CreateSnapshot", run_id=run_id, event_seq=1, state=json("1"))
    await service.end(run_id)
    await store.call("CreateSnapshot", run_id=run_id, event_seq=2)
    latest = (await store.call("GetSnapshot", run_id=run_id)).snapshot
    assert (latest.event_seq, latest.state.WhichOneof("body"), latest.size_bytes) == (2, None, 0)


async def test_refusals(service: Service, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = await create(service)
    large = types_pb2.Payload(data=bytes(2 * 1024 * 1024 + 1))
    invalid = ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert await refusal(store.call("CreateSnapshot", run_id=UNKNOWN)) == ("NOT_FOUND", "RUN_NOT_FOUND")
    assert await refusal(store.call("CreateSnapshot", run_id=run_id, event_seq=-1)) == invalid
    assert await refusal(store.call("CreateSnapshot", run_id=run_id, state=large)) == invalid
    assert await refusal(store.call("GetSnapshot", run_id=run_id, event_seq=-1)) == invalid
    monkeypatch.setattr(snapshots, "MOST", 2)
    answers = await asyncio.gather(
        *(store.call("CreateSnapshot", run_id=run_id, event_seq=seq) for seq in range(6)), return_exceptions=True
    )
    assert sum(isinstance(each, BaseException) for each in answers) == 4
    kept = await store.pages("ListSnapshots", "snapshots", run_id=run_id)
    assert len(kept) == 2
    assert not (await store.call("CreateSnapshot", run_id=run_id, event_seq=kept[0].event_seq)).created


async def test_those_who_come_at_once_take_turns(
    service: Service, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who counts what there is finds all that was let in before."""
    run_id = await create(service)
    monkeypatch.setattr(snapshots, "MOST", 1)
    async with look(service.settings.database_url or "") as database:
        still = database.raw.transaction()
        await still.start()
        await database.raw.execute("LOCK TABLE snapshots IN SHARE MODE")  # who has counted does not get further
        calls = (store.call("CreateSnapshot", run_id=run_id, event_seq=seq) for seq in range(2))
        answers = asyncio.gather(*calls, return_exceptions=True)
        await soon(lambda: database.value(BOTH_WAIT))
        await still.rollback()
        assert sum(isinstance(each, BaseException) for each in await answers) == 1
    assert len(await store.pages("ListSnapshots", "snapshots", run_id=run_id)) == 1
