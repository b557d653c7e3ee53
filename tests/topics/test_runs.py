"""Code that waits on topics, as the SDK has it: arrival and timeout, chains, branches, cancellation, going back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from tests.mending.kit import happened, stepwell, suspended
from tests.sdk.live import Live, live

from stepwell import Context, RunCancelled, RunFailed, WaitTimeout, sync, workflow
from stepwell.runs import RunHandle


@dataclass
class Paid:
    """What an event carries."""

    amount: int


@workflow
async def waits(ctx: Context, count: int) -> list[int]:
    return [(await ctx.wait_topic("paid", as_type=Paid)).amount for _ in range(count)]


@workflow
async def impatient(ctx: Context) -> str:
    try:
        return str(await ctx.wait_topic("paid", timeout=0.05))
    except WaitTimeout as late:
        return f"{late.step_name} was late"


@workflow
async def careful(ctx: Context) -> str:
    try:
        await ctx.wait_topic("never")
    except RunCancelled as told:
        reason = told.reason
        return str(await ctx.step("undo", lambda: reason))
    return "it came"


@workflow
async def chain(ctx: Context, left: int) -> Any:
    got = await ctx.wait_topic("paid", as_type=Paid)
    if left:
        ctx.continue_as_new(left - 1)
    return got.amount


@workflow
async def wide(ctx: Context) -> list[int]:
    async def branch(topic: str) -> int:
        return (await ctx.wait_topic(topic, as_type=Paid)).amount

    return await ctx.gather(branch("paid"), branch("paid"), branch("other"))


@workflow
async def brittle(ctx: Context) -> int:
    got = await ctx.wait_topic("paid", as_type=Paid)
    if not repaired:
        raise ValueError("not yet")
    return got.amount


@workflow
async def racing(ctx: Context) -> Any:
    won = await ctx.race(ctx.wait_topic("b"), ctx.wait_topic("a"))
    return won.value


repaired: list[bool] = []
ALL = [waits, impatient, careful, chain, wide, brittle]


@pytest_asyncio.fixture
async def here(database_url: str) -> AsyncIterator[Live]:
    repaired.clear()
    async with live(database_url) as made:
        yield made


async def waiting(here: Live, topic: str, count: int) -> None:
    """Returns once so many steps wait on a topic."""
    async with asyncio.timeout(60):
        while len([wait async for wait in here.client.topics.waits(topic)]) < count:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


async def nothing_under_way(here: Live, topic: str) -> None:
    async with asyncio.timeout(60):
        while [event async for event in here.client.topics.events(topic) if not event.delivered]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_every_run_gets_the_event_with_its_type(here: Live) -> None:
    async with here.working(workflows=ALL):
        handles = [await here.client.start_run(waits, 1) for _ in range(5)]
        await waiting(here, "paid", 5)
        number = await here.client.topics.publish("paid", Paid(7))
        assert [await handle.result() for handle in handles] == [[7]] * 5
        assert await here.client.topics.publish("paid", Paid(8)) > number


async def test_arrival_and_timeout_are_told_apart(here: Live) -> None:
    async with here.working(workflows=ALL):
        assert await (await here.client.start_run(impatient)).result() == "topic paid was late"
        await here.client.topics.publish("paid", "in time", retain=60)
        handle = await here.client.start_run(impatient)
        assert await handle.result() == "in time"
        assert [name for name in await happened(handle) if name.startswith(("Wait", "Topic"))] == [
            "WaitStarted",
            "TopicReceived",
        ]


async def test_consecutive_waits_get_consecutive_events(here: Live) -> None:
    """Kept ones first, then those that come; each once, also over workers that leave."""
    for amount in (1, 2):
        await here.client.topics.publish("paid", Paid(amount), retain=60)
    async with here.working(workflows=ALL):
        handle = await here.client.start_run(waits, 4)
        await waiting(here, "paid", 1)
    await here.client.topics.publish("paid", Paid(3), retain=60)
    await here.client.topics.publish("paid", Paid(4), retain=60)
    async with here.working(workflows=ALL):
        assert await handle.result() == [1, 2, 3, 4]


async def test_none_is_missed_while_all_come_at_once(database_url: str) -> None:
    """Runs wait again and again, on two replicas, while events are published at both: each gets all, in one order."""
    runs, events = 12, 15
    async with (
        live(database_url) as one,
        live(database_url) as other,
        one.working(workflows=ALL),
        other.working(workflows=ALL),
    ):
        handles = [await side.client.start_run(waits, events) for side in (one, other) for _ in range(runs // 2)]

        async def publish(side: Live, amounts: range) -> dict[int, int]:
            return {await side.client.topics.publish("paid", Paid(amount), retain=600): amount for amount in amounts}

        numbered = await asyncio.gather(publish(one, range(0, events, 2)), publish(other, range(1, events, 2)))
        order = [amount for _, amount in sorted([*numbered[0].items(), *numbered[1].items()])]
        assert await asyncio.gather(*(handle.result() for handle in handles)) == [order] * runs


async def test_a_chain_gets_each_event_once(here: Live) -> None:
    for amount in (1, 2, 3):
        await here.client.topics.publish("paid", Paid(amount), retain=60)
    async with here.working(workflows=ALL):
        assert await (await here.client.start_run(chain, 2)).result() == 3


async def test_branches_get_what_each_waits_for(here: Live) -> None:
    async with here.working(workflows=ALL):
        handle = await here.client.start_run(wide)
        await waiting(here, "other", 1)
        await here.client.topics.publish("paid", Paid(1))
        await here.client.topics.publish("other", Paid(2))
        assert await handle.result() == [1, 1, 2]


async def test_the_loser_of_a_race_waits_no_more(here: Live) -> None:
    async with here.working(workflows=[*ALL, racing]):
        handle = await here.client.start_run(racing)
        await waiting(here, "a", 1)
        await here.client.topics.publish("a", "first")
        assert await handle.result() == "first"
        assert [wait async for wait in here.client.topics.waits("b")] == []


async def test_cancellation_ends_a_wait(here: Live) -> None:
    async with here.working(workflows=ALL):
        handle = await here.client.start_run(careful)
        await waiting(here, "never", 1)
        await handle.cancel("changed my mind")
        assert await handle.result() == "changed my mind"
        assert "WaitCancelled" in await happened(handle)
        assert [wait async for wait in here.client.topics.waits("never")] == []


@pytest.mark.parametrize("how", ["retry", "rewind"])
async def test_what_a_run_has_had_it_has_again(here: Live, how: str) -> None:
    """Though nobody keeps the event: a retried run keeps its wait, a rewound one does it anew."""
    async with here.working(workflows=ALL):
        handle = await here.client.start_run(brittle)
        await waiting(here, "paid", 1)
        await here.client.topics.publish("paid", Paid(5))
        with pytest.raises(RunFailed):
            await handle.result()
        await nothing_under_way(here, "paid")
        repaired.append(True)
        await (handle.retry(reason="mended") if how == "retry" else handle.rewind("topic paid", reason="mended"))
        assert await here.client.run(handle.run_id).result() == 5


async def test_without_asyncio(here: Live) -> None:
    async with here.working(workflows=ALL):
        handle = await here.client.start_run(waits, 1)
        await waiting(here, "paid", 1)

        def publish() -> tuple[int, int, list[str], list[str]]:
            with sync.Client.connect(here.client.address) as client:
                run_ids = [wait.run_id for wait in client.topics.waits("paid")]
                first = client.topics.publish("paid", Paid(1), retain=60, request_id="r")
                again = client.topics.publish("paid", Paid(1), retain=60, request_id="r")
                return first, again, run_ids, [event.payload.json for event in client.topics.events("paid")]

        first, again, run_ids, events = await asyncio.to_thread(publish)
        assert (first == again, run_ids, events) == (True, [handle.run_id], ['{"amount":1}'])
        assert await handle.result() == [1]


async def test_the_command(here: Live) -> None:
    """Publishes, lists, and tells what a run waits for."""
    client = here.client
    async with here.working(workflows=ALL):
        handle: RunHandle[Any] = await client.start_run(waits, 2, workflow_id="order")
        await suspended(handle)
        assert "topic paid" in await stepwell(client, "run", "show", "order")
        assert handle.run_id in await stepwell(client, "topic", "waits", "paid")
        printed = await stepwell(
            client, "topic", "publish", "paid", "-i", '{"amount": 1}', "--retain", "60", "-o", "json"
        )
        number = json.loads(printed)["number"]
        await nothing_under_way(here, "paid")
        assert str(number) in await stepwell(client, "topic", "events", "paid")
        assert "was published" in await stepwell(client, "topic", "publish", "paid", "-i", '{"amount": 2}')
        assert await handle.result() == [1, 2]
        assert "TopicReceived" in await stepwell(client, "run", "history", "order")
        assert "no run waits on paid" in await stepwell(client, "topic", "waits", "paid")
