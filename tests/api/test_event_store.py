"""EventStore: callers' own events beside the engine's, and assay's contract case by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.api.stores import Store, create, json, span
from tests.service import Service, refusal, serving

from stepwell.v1 import history_pb2


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url, committers=2) as running:
        yield running


@pytest.fixture
def store(service: Service) -> Store:
    return Store(service, "event")


CALLER = history_pb2.EVENT_ORIGIN_CALLER


async def test_assay_8_events_append_and_list(service: Service, store: Store) -> None:
    run_id = await create(service, workflow_id="w")
    for seq in (1, 2, 3):
        appended = await store.call("AppendEvent", run_id=run_id, type=f"E{seq}", caller_seq=seq, payload=json("1"))
        assert appended.event_number > 0
    events = await store.pages("ReadEvents", "events", workflow_id="w", origin=CALLER, page_size=2)
    assert [(event.caller_seq, event.type, event.payload.json) for event in events] == [
        (1, "E1", "1"),
        (2, "E2", "1"),
        (3, "E3", "1"),
    ]
    backwards = await store.pages("ReadEvents", "events", run_id=run_id, origin=CALLER, descending=True)
    assert [event.caller_seq for event in backwards] == [3, 2, 1]
    assert (await store.call("CountEvents", run_id=run_id, origin=CALLER)).count == 3
    assert (await store.call("CountEvents", run_id=run_id)).count == 4
    assert (await store.call("CountEvents", workflow_id="unknown")).count == 0
    assert await store.pages("ReadEvents", "events", workflow_id="unknown") == []


async def test_numbers_have_no_gaps_whoever_appends(service: Service, store: Store) -> None:
    run_id = await create(service)
    appends = [store.call("AppendEvent", run_id=run_id, type="e") for _ in range(100)]
    appends += [store.call("AppendEvent", run_id=run_id, type="e", caller_seq=seq) for seq in range(1, 101)]
    numbers = [appended.number for appended in await asyncio.gather(*appends)]
    assert sorted(numbers) == list(range(2, 202))


async def test_a_callers_number_is_used_once(service: Service, store: Store, database_url: str) -> None:
    """Also of many appends at once over two replicas."""
    run_id = await create(service)
    async with serving(database_url) as other:
        stores = (store, Store(other, "event"))
        appends = [stores[place % 2].call("AppendEvent", run_id=run_id, type="e", caller_seq=7) for place in range(6)]
        answers = await asyncio.gather(*appends, return_exceptions=True)
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
    again = store.call("AppendEvent", run_id=run_id, type="e", caller_seq=7)
    assert await refusal(again) == ("ALREADY_EXISTS", "EVENT_SEQ_EXISTS")
    other_run = await create(service)
    await store.call("AppendEvent", run_id=other_run, type="e", caller_seq=7)


async def test_an_append_carries_the_token_and_an_ended_run_takes_none(service: Service, store: Store) -> None:
    run_id, runs = await create(service), Store(service, "run")
    claim = await runs.call("ClaimRun", run_id=run_id, owner_id="a", lease_duration=span(60))
    assert (await refusal(store.call("AppendEvent", run_id=run_id, type="e")))[1] == "LEASE_LOST"
    await store.call("AppendEvent", run_id=run_id, type="e", caller_seq=1, token=claim.token)
    await runs.call("MarkRunCompleted", run_id=run_id, token=claim.token)
    assert (await refusal(store.call("AppendEvent", run_id=run_id, type="e")))[1] == "RUN_TERMINAL"
    code_run = await service.begin()
    await store.call("AppendEvent", run_id=code_run, type="e", caller_seq=1)
