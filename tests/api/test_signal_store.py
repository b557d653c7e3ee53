"""SignalStore: each signal taken once, in the order of arrival, and assay's contract case by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.api.stores import Store, create, json, span
from tests.service import Service, refusal, serving

from stepwell_server.settings import Limits


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url, committers=2) as running:
        yield running


@pytest.fixture
def store(service: Service) -> Store:
    return Store(service, "signal")


async def taken(store: Store, run_id: str, name: str = "s", **fields: Any) -> list[str]:
    response = await store.call("ConsumeSignals", run_id=run_id, signal_name=name, **fields)
    return [signal.payload.json for signal in response.signals]


async def test_assay_18_signal_send_and_consume(service: Service, store: Store) -> None:
    run_id = await create(service)
    first = await store.call("SendSignal", run_id=run_id, signal_name="s", payload=json("1"))
    second = await store.call("SendSignal", run_id=run_id, signal_name="s", payload=json("2"))
    await store.call("SendSignal", run_id=run_id, signal_name="other", payload=json("3"))
    assert first.signal_number != second.signal_number
    response = await store.call("ConsumeSignals", run_id=run_id, signal_name="s")
    assert [signal.payload.json for signal in response.signals] == ["1", "2"]
    assert [signal.signal_number for signal in response.signals] == [first.signal_number, second.signal_number]
    assert not response.has_more
    assert await taken(store, run_id) == []
    assert await taken(store, run_id, "other") == ["3"]


async def test_each_signal_is_taken_once_in_its_order(service: Service, store: Store, database_url: str) -> None:
    """Over two replicas, while others come."""
    run_id = await create(service)
    got: list[list[str]] = []

    async def consume(each: Store) -> None:
        for _ in range(10):
            got.append(await taken(each, run_id))  # noqa: PERF401 - they come one after another

    async def send() -> None:
        for number in range(40):
            await store.call("SendSignal", run_id=run_id, signal_name="s", payload=json(str(number)))

    async with serving(database_url) as other:
        await asyncio.gather(send(), consume(store), consume(Store(other, "signal")))
    got.append(await taken(store, run_id))
    assert sorted(int(number) for numbers in got for number in numbers) == list(range(40))
    assert all([int(number) for number in numbers] == sorted(int(number) for number in numbers) for numbers in got)


async def test_signals_too_large_for_one_answer_come_in_several(service: Service, store: Store) -> None:
    run_id = await create(service)
    large = json('"' + "x" * 1_500_000 + '"')
    for _ in range(3):
        await store.call("SendSignal", run_id=run_id, signal_name="s", payload=large)
    first = await store.call("ConsumeSignals", run_id=run_id, signal_name="s")
    assert (len(first.signals), first.has_more) == (2, True)
    rest = await store.call("ConsumeSignals", run_id=run_id, signal_name="s")
    assert (len(rest.signals), rest.has_more) == (1, False)


async def test_a_repeated_signal_is_recorded_once_and_an_ended_run_takes_none(service: Service, store: Store) -> None:
    run_id, runs = await create(service), Store(service, "run")
    request = {"run_id": run_id, "signal_name": "s", "request_id": "r"}
    first, again = await store.call("SendSignal", **request), await store.call("SendSignal", **request)
    assert (first.recorded, again.recorded, again.signal_number) == (True, False, first.signal_number)
    claim = await runs.call("ClaimRun", run_id=run_id, owner_id="a", lease_duration=span(60))
    stale = store.call("ConsumeSignals", run_id=run_id, signal_name="s", token=claim.token + 1)
    assert (await refusal(stale))[1] == "LEASE_LOST"
    assert len(await taken(store, run_id, token=claim.token)) == 1
    await runs.call("MarkRunCompleted", run_id=run_id, token=claim.token)
    late = store.call("SendSignal", run_id=run_id, signal_name="s")
    assert (await refusal(late))[1] == "SIGNAL_REFUSED"


async def test_a_call_that_may_take_many_takes_them_all(database_url: str) -> None:
    """More than the committer loads at once."""
    async with serving(database_url, limits=Limits(set_runs=300)) as service:
        store, run_id = Store(service, "signal"), await create(service)
        for _ in range(2):
            sending = [store.call("SendSignal", run_id=run_id, signal_name="s") for _ in range(140)]
            await asyncio.gather(*sending)
        answer = await store.call("ConsumeSignals", run_id=run_id, signal_name="s")
        assert (len(answer.signals), answer.has_more) == (280, False)
