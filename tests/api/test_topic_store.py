"""TopicStore: stem's contract cases by name, and one event a run over many emitters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.api.stores import CANCELLED, RUNNING, Store, at, create, json, read, span
from tests.service import Service, refusal, serving

from stepwell.v1 import runs_pb2


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url, committers=2) as running:
        yield running


@pytest.fixture
def store(service: Service) -> Store:
    return Store(service, "topic")


Wake = runs_pb2.Run.Wake


async def wait(store: Store, run_id: str, method: str = "RegisterWatcher", **fields: Any) -> None:
    await store.call(method, **{"run_id": run_id, "step_name": "s", "topic": "t", **fields})


async def waiting(store: Store, topic: str = "t") -> list[str]:
    return [run.run_id for run in await store.pages("ListRunsWaitingOn", "runs", topic=topic, page_size=2)]


async def test_stem_13_suspend_on_topic_runs_waiting_on_cancel(service: Service, store: Store) -> None:
    run_id = await create(service)
    await wait(store, run_id, "SuspendOnTopic")
    assert await waiting(store) == [run_id]
    assert (await read(service, run_id)).wait_topic == "t"
    await Store(service, "run").call("CancelDrivenRun", run_id=run_id)
    assert (await read(service, run_id)).phase == CANCELLED
    assert await waiting(store) == []


async def test_stem_14_runs_waiting_on_returns_all_on_a_topic(service: Service, store: Store) -> None:
    created = [await create(service) for _ in range(3)]
    for run_id in created:
        await wait(store, run_id, "SuspendOnTopic")
    assert await waiting(store) == created
    for run_id in created:
        await Store(service, "run").call("ResumeRunWith", run_id=run_id, data=json('{"payload": 1}'))
    assert await waiting(store) == []
    for run_id in created:
        run = await read(service, run_id)
        assert (run.phase, run.suspension_data.json, run.wait_topic) == (RUNNING, '{"payload": 1}', "")
        assert (run.wake.cause, run.wake.topic) == (Wake.CAUSE_CALLER, "t")


async def test_stem_15_register_watcher_resolves_the_payload_once(service: Service, store: Store) -> None:
    run_id = await create(service)
    await wait(store, run_id, data=json('{"k": 1}'))
    assert await waiting(store) == [run_id]
    (watcher,) = await store.pages("ListWatchers", "watchers", topic="t")
    assert (watcher.run_id, watcher.step_name) == (run_id, "s")
    (found,) = (await store.call("ResolveWatchers", topic="t", payload=json('{"value": 42}'))).resolutions
    assert (found.run_id, found.step_name, found.data.json, found.type) == (run_id, "s", '{"k": 1}', "t")
    assert await waiting(store) == []
    assert await store.pages("ListWatchers", "watchers", topic="t") == []
    assert not (await store.call("ResolveWatchers", topic="t", payload=json("2"))).resolutions
    run = await read(service, run_id)
    assert (run.phase, run.wake.cause, run.wake.topic, run.wake.step_name) == (RUNNING, Wake.CAUSE_TOPIC, "t", "s")
    assert (run.wake.payload.json, run.suspension_data.json) == ('{"value": 42}', '{"k": 1}')


async def test_stem_16_list_watchers_exposes_deadline_and_data(service: Service, store: Store) -> None:
    run_id = await create(service)
    await wait(store, run_id, deadline=at(5), data=json('{"note": "n"}'))
    (watcher,) = await store.pages("ListWatchers", "watchers", topic="t")
    assert (watcher.deadline, watcher.data.json) == (at(5), '{"note": "n"}')


async def test_a_watcher_is_resolved_once_over_many_emitters(service: Service, store: Store, database_url: str) -> None:
    """Over two replicas: each run by one event, each event's answer names what it woke."""
    created = [await create(service) for _ in range(20)]
    for run_id in created:
        await wait(store, run_id)
    async with serving(database_url) as other:
        stores = (store, Store(other, "topic"))
        emits = [
            stores[place % 2].call("ResolveWatchers", topic="t", payload=json(str(place)), limit=10)
            for place in range(6)
        ]
        answers = await asyncio.gather(*emits)
    woken = {found.run_id: place for place, answer in enumerate(answers) for found in answer.resolutions}
    assert sum(len(answer.resolutions) for answer in answers) == len(created)
    assert set(woken) == set(created)
    for run_id, place in woken.items():
        assert (await read(service, run_id)).wake.payload.json == str(place)


async def test_the_longest_waiting_are_woken_first(service: Service, store: Store) -> None:
    created = [await create(service) for _ in range(3)]
    for run_id in reversed(created):
        await wait(store, run_id)
    first = (await store.call("ResolveWatchers", topic="t", limit=2)).resolutions
    assert [found.run_id for found in first] == created[:0:-1]
    assert await waiting(store) == created[:1]


async def test_a_deadline_is_told_from_an_event(service: Service, store: Store) -> None:
    run_id, runs = await create(service), Store(service, "run")
    await wait(store, run_id, deadline=at(5))
    assert not (await runs.call("TakeDueRuns", now=at(4))).runs
    (due,) = (await runs.call("TakeDueRuns", now=at(5))).runs
    assert (due.run_id, due.topic) == (run_id, "t")
    await runs.call("ResumeRunWith", run_id=run_id)
    run = await read(service, run_id)
    assert (run.wake.cause, run.wake.topic) == (Wake.CAUSE_TIME, "t")
    assert not (await store.call("ResolveWatchers", topic="t")).resolutions


async def test_whatever_makes_a_run_go_on_ends_its_wait(service: Service, store: Store) -> None:
    runs = Store(service, "run")
    for method, fields in (
        ("MarkRunRunning", {}),
        ("ResumeRunWith", {}),
        ("MarkRunCompleted", {}),
        ("SuspendRun", {"step_name": "x", "wake_time": at(1)}),
        ("SetRunPhase", {"phase": RUNNING}),
        ("RewindToStep", {"step_name": "done"}),
    ):
        run_id = await create(service)
        await Store(service, "step").call("SaveStep", run_id=run_id, step_name="done")
        await wait(store, run_id)
        await runs.call(method, run_id=run_id, **fields)
        assert await waiting(store) == [], method
    moved = await create(service)
    await wait(store, moved)
    await wait(store, moved, topic="other")
    assert (await waiting(store), await waiting(store, "other")) == ([], [moved])


async def test_a_run_that_the_service_ends_waits_no_more(service: Service, store: Store) -> None:
    run_id = await create(service)
    await wait(store, run_id)
    await service.end(run_id)
    assert not (await store.call("ResolveWatchers", topic="t")).resolutions


async def test_a_wait_carries_the_token(service: Service, store: Store) -> None:
    run_id = await create(service)
    claim = await Store(service, "run").call("ClaimRun", run_id=run_id, owner_id="a", lease_duration=span(60))
    for method in ("RegisterWatcher", "SuspendOnTopic"):
        stale = store.call(method, run_id=run_id, step_name="s", topic="t")
        assert (await refusal(stale))[1] == "LEASE_LOST"
    await wait(store, run_id, token=claim.token)
    assert (await store.call("ResolveWatchers", topic="t")).resolutions
