"""Steps that wait for signals: FlowOrchestrator's contract on its signal store, and what is better than it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.api.stores import Store, at, create, json
from tests.service import Service, refusal, serving

from stepwell.v1 import signal_store_pb2

OUTCOMES = signal_store_pb2.DeliverSignalResponse
DELIVERED, KEPT, ALREADY, EXPIRED, NOT_FOUND = (
    OUTCOMES.OUTCOME_DELIVERED,
    OUTCOMES.OUTCOME_KEPT,
    OUTCOMES.OUTCOME_ALREADY_DELIVERED,
    OUTCOMES.OUTCOME_EXPIRED,
    OUTCOMES.OUTCOME_NOT_FOUND,
)


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


@pytest_asyncio.fixture
async def run_id(service: Service) -> str:
    return await create(service)


class Waiters:
    """Who waits in one run."""

    def __init__(self, service: Service, run_id: str) -> None:
        self.store, self.run_id = Store(service, "signal"), run_id

    async def register(self, step_name: str = "s", signal_name: str = "go", **fields: Any) -> Any:
        names = {"step_name": step_name, "signal_name": signal_name}
        return (await self.store.call("RegisterSignalWaiter", run_id=self.run_id, **names, **fields)).waiter

    async def deliver(self, value: int = 1, signal_name: str = "go", **fields: Any) -> tuple[Any, str]:
        given = {"signal_name": signal_name, "payload": json(str(value)), **fields}
        answer = await self.store.call("DeliverSignal", run_id=self.run_id, **given)
        assert answer.HasField("deliver_time") is (answer.outcome in {DELIVERED, ALREADY})
        return answer.outcome, answer.step_name

    async def get(self, step_name: str = "s") -> Any:
        answer = await self.store.call("GetSignalWaiter", run_id=self.run_id, step_name=step_name)
        return answer.waiter if answer.found else None


@pytest.fixture
def waiters(service: Service, run_id: str) -> Waiters:
    return Waiters(service, run_id)


async def test_register_and_get(waiters: Waiters) -> None:
    made = await waiters.register(expire_time=at(60))
    assert (made.step_name, made.signal_name, made.expire_time) == ("s", "go", at(60))
    assert (made.HasField("create_time"), made.HasField("deliver_time")) == (True, False)
    assert await waiters.get() == made
    assert await waiters.get("another") is None


async def test_registering_again_renews_name_and_expiry(waiters: Waiters) -> None:
    first = await waiters.register(expire_time=at(60))
    again = await waiters.register(signal_name="stop", expire_time=at(90))
    assert (again.signal_name, again.expire_time, again.create_time) == ("stop", at(90), first.create_time)
    assert await waiters.deliver(only_waiting=True) == (NOT_FOUND, "")
    assert await waiters.deliver(signal_name="stop", now=at(1)) == (DELIVERED, "s")


async def test_a_signal_is_delivered_once_and_to_the_oldest(waiters: Waiters) -> None:
    for step_name in ("a", "b"):
        await waiters.register(step_name)
    assert [await waiters.deliver(value) for value in (1, 2)] == [(DELIVERED, "a"), (DELIVERED, "b")]
    assert await waiters.deliver(3) == (ALREADY, "a")
    seen = [await waiters.get(step_name) for step_name in ("a", "b")]
    assert [(each.payload.json, each.HasField("deliver_time")) for each in seen] == [("1", True), ("2", True)]
    assert (await waiters.register("a")) == seen[0]


async def test_of_16_deliverers_at_once_one_delivers(service: Service, waiters: Waiters, database_url: str) -> None:
    await waiters.register()
    async with serving(database_url) as other:
        both = (waiters, Waiters(other, waiters.run_id))
        outcomes = await asyncio.gather(*(both[place % 2].deliver(place) for place in range(16)))
    assert sorted(outcomes) == [(DELIVERED, "s"), *[(ALREADY, "s")] * 15]


async def test_an_early_signal_is_kept_for_the_first_that_waits(waiters: Waiters) -> None:
    assert [await waiters.deliver(value) for value in (1, 2)] == [(KEPT, ""), (KEPT, "")]
    for value, step_name in ((1, "a"), (2, "b")):
        made = await waiters.register(step_name)
        assert (made.payload.json, made.HasField("deliver_time")) == (str(value), True)
        assert await waiters.get(step_name) == made
    assert not (await waiters.register("c")).HasField("deliver_time")


async def test_a_waiter_whose_time_is_over_gets_nothing(waiters: Waiters) -> None:
    await waiters.register(expire_time=at(60))
    assert await waiters.deliver(now=at(60)) == (EXPIRED, "s")
    assert not (await waiters.get()).HasField("deliver_time")
    assert await waiters.deliver(now=at(59)) == (DELIVERED, "s")


async def test_a_waiter_is_removed(waiters: Waiters) -> None:
    """Also one that has got a signal; then it may wait again."""
    for _ in range(2):
        await waiters.register()
        await waiters.deliver()
        removed = {"run_id": waiters.run_id, "step_name": "s"}
        assert (await waiters.store.call("RemoveSignalWaiter", **removed)).removed
        assert not (await waiters.store.call("RemoveSignalWaiter", **removed)).removed
        assert await waiters.get() is None
    await waiters.register()
    assert (await waiters.store.call("RemoveSignalWaiter", **removed)).removed
    assert await waiters.deliver(only_waiting=True) == (NOT_FOUND, "")


async def test_an_ended_run_takes_no_signal(service: Service, waiters: Waiters) -> None:
    await waiters.register()
    await Store(service, "run").call("MarkRunCompleted", run_id=waiters.run_id)
    assert (await refusal(waiters.deliver()))[1] == "SIGNAL_REFUSED"
    assert (await refusal(waiters.register()))[1] == "RUN_TERMINAL"


async def test_waiters_are_no_steps_of_the_engine(service: Service, waiters: Waiters) -> None:
    """Whatever their names are."""
    for step_name in ("s", "signal#=s", "signal"):
        await waiters.register(step_name)
        await Store(service, "step").call("RecordStepStart", run_id=waiters.run_id, step_name=step_name)
    listed = await Store(service, "step").pages("ListStepStates", "entries", run_id=waiters.run_id)
    assert sorted(entry.step_name for entry in listed) == ["s", "signal", "signal#=s"]
