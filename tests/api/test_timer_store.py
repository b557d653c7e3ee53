"""TimerStore: assay's contract cases by name; each timer fires once, when its engine asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.api.stores import RUNNING, SUSPENDED, Reached, Store, at, create, read, span
from tests.service import Service, refusal, serving, soon

from stepwell.v1 import runs_pb2, types_pb2
from stepwell_server.service import Service as Replica
from stepwell_server.settings import Settings


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url, committers=2) as running:
        yield running


@pytest.fixture
def store(service: Service) -> Store:
    return Store(service, "timer")


WAITING, FIRED, STOPPED = (
    types_pb2.STEP_STATE_WAITING,
    types_pb2.STEP_STATE_COMPLETED,
    types_pb2.STEP_STATE_CANCELLED,
)


async def fired(store: Store, seconds: float, **fields: Any) -> list[int]:
    return [timer.seq for timer in (await store.call("FireDueTimers", now=at(seconds), **fields)).timers]


async def test_assay_16_timer_create_and_fire(service: Service, store: Store) -> None:
    """The event is recorded with it."""
    run_id = await create(service, workflow_id="w")
    made = await store.call("CreateTimer", run_id=run_id, seq=1, fire_time=at(-1))
    assert (made.created, made.timer.state) == (True, WAITING)
    assert made.timer.timer_number > 0
    await store.call("CreateTimer", run_id=run_id, seq=2, fire_time=at(60))
    (timer,) = (await store.call("FireDueTimers", now=at(0))).timers
    assert (timer.timer_number, timer.workflow_id, timer.seq) == (made.timer.timer_number, "w", 1)
    assert (timer.fire_time, timer.state) == (at(-1), FIRED)
    assert await fired(store, 0) == []
    found = await store.call("GetTimer", run_id=run_id, seq=1)
    assert (found.found, found.timer) == (True, timer)
    assert not (await store.call("GetTimer", run_id=run_id, seq=3)).found
    assert not (await store.call("GetTimer", workflow_id="unknown", seq=1)).found
    events = await Store(service, "event").pages("ReadEvents", "events", run_id=run_id)
    assert [(event.type, event.attributes["seq"]) for event in events if event.type == "TimerFired"] == [
        ("TimerFired", "1")
    ]


async def test_assay_17_timer_is_idempotent_by_its_seq(service: Service, store: Store) -> None:
    run_id = await create(service)
    creates = [store.call("CreateTimer", run_id=run_id, seq=0, fire_time=at(number)) for number in range(4)]
    answers = await asyncio.gather(*creates)
    assert sum(answer.created for answer in answers) == 1
    (only,) = {answer.timer.timer_number for answer in answers}
    again = await store.call("CreateTimer", run_id=run_id, seq=0, fire_time=at(99))
    assert (again.timer.timer_number, again.timer.fire_time) == (only, answers[0].timer.fire_time)
    assert await fired(store, 100) == [0]
    late = await store.call("CreateTimer", run_id=run_id, seq=0, fire_time=at(200))
    assert (late.created, late.timer.state) == (False, FIRED)


async def test_a_timer_fires_for_one_of_many_callers(service: Service, store: Store, database_url: str) -> None:
    """Over two replicas, each with a limit; the rest comes with the next call, earliest first."""
    run_ids = [await create(service) for _ in range(3)]
    for place, run_id in enumerate(run_ids):
        for seq in range(10):
            await store.call("CreateTimer", run_id=run_id, seq=place * 10 + seq, fire_time=at(-1 - seq))
    async with serving(database_url) as other:
        stores = (store, Store(other, "timer"))
        answers = await asyncio.gather(*(fired(stores[place % 2], 0, limit=5) for place in range(8)))
    assert sorted(seq for seqs in answers for seq in seqs) == list(range(30))
    assert all(len(seqs) <= 5 for seqs in answers)


async def test_cancelled_timers_do_not_fire(service: Service, store: Store) -> None:
    run_id, other = await create(service), await create(service)
    for seq in (1, 2):
        await store.call("CreateTimer", run_id=run_id, seq=seq, fire_time=at(-1))
    await store.call("CreateTimer", run_id=other, seq=3, fire_time=at(-1))
    begun = await Store(service, "step").call("BeginStep", run_id=run_id, step_name="s")
    assert (await store.call("CancelPendingTimers", run_id=run_id)).cancelled_count == 2
    assert (await store.call("CancelPendingTimers", run_id=run_id)).cancelled_count == 0
    assert (await store.call("GetTimer", run_id=run_id, seq=1)).timer.state == STOPPED
    assert await fired(store, 0) == [3]
    await Store(service, "step").call("CompleteStep", step_number=begun.step.number)
    await store.call("CreateTimer", run_id=other, seq=4, fire_time=at(-1))
    await Store(service, "run").call("MarkRunCompleted", run_id=other)
    assert await fired(store, 0) == []


async def test_a_timer_carries_the_token(service: Service, store: Store) -> None:
    run_id = await create(service)
    claim = await Store(service, "run").call("ClaimRun", run_id=run_id, owner_id="a", lease_duration=span(60))
    for late in (
        store.call("CreateTimer", run_id=run_id, seq=1, fire_time=at(1)),
        store.call("CancelPendingTimers", run_id=run_id),
    ):
        assert (await refusal(late))[1] == "LEASE_LOST"
    await store.call("CreateTimer", run_id=run_id, seq=1, fire_time=at(1), token=claim.token)
    assert await fired(store, 1) == [1]


async def test_our_loops_leave_driven_runs_alone_unless_managed(database_url: str) -> None:
    """A managed run's timer fires and its sleep ends by themselves; those of another wait for their engine."""
    async with Replica(Settings(database_url=database_url, port=0, shutdown_seconds=1.0)) as replica:
        service = Reached(replica.address)
        store = Store(service, "timer")
        ids = {managed: await create(service, managed=managed) for managed in (True, False)}
        for run_id in ids.values():
            await store.call("CreateTimer", run_id=run_id, seq=1, fire_time=at(-1))
            await Store(service, "run").call("SuspendRun", run_id=run_id, step_name="s", wake_time=at(-1))

        async def both_done() -> bool:
            timer = (await store.call("GetTimer", run_id=ids[True], seq=1)).timer
            return bool(timer.state == FIRED and (await read(service, ids[True])).phase == RUNNING)

        await soon(both_done)
        assert (await read(service, ids[True])).wake.cause == runs_pb2.Run.Wake.CAUSE_TIME
        assert (await store.call("GetTimer", run_id=ids[False], seq=1)).timer.state == WAITING
        assert (await read(service, ids[False])).phase == SUSPENDED
        assert await fired(store, 0) == [1]
        await service.channel.close()
