"""Queries and updates against the real service: live, published, replayed."""

from __future__ import annotations

import asyncio
import json
import random
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from tests import warm
from tests.stream.kit import replica, until

from stepwell import (
    Client,
    Context,
    RunCancelled,
    RunFailed,
    RunHandle,
    UpdateFailed,
    UpdateRejected,
    activity,
    reasons,
    workflow,
)
from stepwell import sync as in_step
from stepwell.v1 import types_pb2

Working = Callable[..., Any]
DONE, SUSPENDED = types_pb2.STEP_STATE_COMPLETED, types_pb2.RUN_PHASE_SUSPENDED
EVICTED = {"max_resident_runs": 0}


@pytest_asyncio.fixture
async def client(database_url: str) -> AsyncIterator[Client]:
    async with replica(database_url) as made, await Client.connect(made.service.address) as connected:
        yield connected


@dataclass
class Item:
    name: str
    count: int


@activity
async def price(item: Item) -> int:
    return 10 * item.count


def positive(item: Item) -> None:
    if item.count < 1:
        raise ValueError(f"{item.count} of {item.name}")


@workflow
async def cart(ctx: Context) -> dict[str, int]:
    """Takes items until it is closed; asks for each one's price in the item's own branch."""
    prices: dict[str, int] = {}
    is_closed = False

    async def add(item: Item) -> int:
        prices[item.name] = await ctx.activity(price, item)
        return len(prices)

    def close() -> str:
        nonlocal is_closed
        is_closed = True
        return "closed"

    ctx.on_query("total", lambda: sum(prices.values()), publish=True)
    ctx.on_query("price", lambda name: prices[name])
    ctx.on_update("add", add, validator=positive)
    ctx.on_update("close", close)
    ctx.publish("owner", "Ada")
    await ctx.wait_until(lambda: is_closed)
    return prices


async def suspended(handle: RunHandle[Any]) -> None:
    """Returns once the run waits."""
    await until(handle.describe, lambda run: run.phase == SUSPENDED)


async def test_a_conversation(client: Client, working: Working) -> None:
    """Queries, updates and the end of a run that waits for nothing else."""
    handle = await client.start_run(cart, task_queue="tests")
    async with working(workflows=[cart], activities=[price]):
        assert await handle.update("add", Item("pen", 2)) == 1
        assert await handle.update("add", Item("ink", 3), as_type=int) == 2
        answer = await handle.query("total")
        assert (answer.value, answer.is_live, answer.publish_time) == (50, True, None)
        assert (await handle.query("price", "ink")).value == 30
        assert (await handle.query("owner")).value == "Ada"
        assert await handle.update("close") == "closed"
        assert await handle.result() == {"pen": 20, "ink": 30}
    answer = await handle.query("total")
    assert (answer.value, answer.is_live) == (50, False)
    assert answer.publish_time is not None


async def test_what_is_wrong_is_told_apart(client: Client, working: Working) -> None:
    handle = await client.start_run(cart, task_queue="tests")
    async with working(workflows=[cart], activities=[price]):
        with pytest.raises(UpdateRejected, match="ValueError: 0 of pen") as rejected:
            await handle.update("add", Item("pen", 0), update_id="u1")
        assert (rejected.value.update_id, rejected.value.type) == ("u1", "ValueError")
        with pytest.raises(UpdateRejected, match="it has add, close"):
            await handle.update("remove")
        with pytest.raises(UpdateRejected, match="ConversionError"):
            await handle.update("add", "no item")
        with pytest.raises(reasons.QueryFailed, match="KeyError"):
            await handle.query("price", "nothing")
        with pytest.raises(reasons.QueryFailed, match="it has owner, price, total"):
            await handle.query("weight")
        await handle.update("close")
        with pytest.raises(reasons.RunTerminal):
            await handle.update("close")
        assert not [step.key for step in [each async for each in handle.steps()] if step.key == "u1"]


async def test_a_repeat_changes_nothing(client: Client, working: Working) -> None:
    handle = await client.start_run(cart, task_queue="tests")
    async with working(workflows=[cart], activities=[price]):
        twice = [handle.update("add", Item("pen", 1), update_id="once") for _ in range(3)]
        assert await asyncio.gather(*twice) == [1, 1, 1]
        assert await handle.update("add", Item("pen", 1), update_id="once") == 1
        await handle.update("close")
    assert await handle.update("add", Item("pen", 1), update_id="once") == 1
    with pytest.raises(reasons.RequestIdReused):
        await handle.update("close", update_id="once")


@pytest.mark.parametrize("options", [{}, EVICTED], ids=["resident", "evicted"])
async def test_each_update_finds_what_the_ones_before_it_left(
    client: Client, working: Working, options: dict[str, Any]
) -> None:
    """Also when each of them finds a worker that replays the run from its record."""
    handle = await client.start_run(cart, task_queue="tests")
    async with working(workflows=[cart], activities=[price], **options):
        for number in range(4):
            assert await handle.update("add", Item(f"i{number}", number + 1)) == number + 1
        await suspended(handle)
        if options:
            answer = await handle.query("total")
            assert (answer.value, answer.is_live) == (100, False)
        await handle.update("close")
        assert sum((await handle.result()).values()) == 100


async def test_an_update_that_is_under_way_goes_on_with_the_next_worker(client: Client, working: Working) -> None:
    @workflow
    async def slow(ctx: Context) -> list[str]:
        seen: list[str] = []

        async def add(name: str) -> str:
            seen.append(name)
            word: str = await ctx.wait_signal(f"go {name}")
            return f"{name} {word}"

        ctx.on_update("add", add)
        await ctx.wait_until(lambda: len(seen) == 3)
        await ctx.wait_signal("end")
        return seen

    handle = await client.start_run(slow, task_queue="tests")
    async with working(workflows=[slow]):
        assert await handle.update("add", "a", update_id="a", wait_for="accepted") is None
        waiting = asyncio.create_task(handle.update("add", "b", update_id="b"))
        await until(lambda: steps(handle, "__update"), lambda found: len(found) == 2)
    async with working(workflows=[slow]):
        await handle.signal("go b", "done")
        assert await waiting == "b done"
        await handle.update("add", "c", wait_for="accepted")
        await handle.signal("go a", "too")
        assert await handle.update("add", "a", update_id="a") == "a too"
        await handle.signal("end")
        await until(lambda: steps(handle, "end"), lambda found: found[0].state == DONE)
        await suspended(handle)
    async with working(workflows=[slow]):
        # It has returned, and what it accepted is done all the same.
        await handle.signal("go c")
        assert await handle.result() == ["a", "b", "c"]


async def steps(handle: RunHandle[Any], name: str) -> list[Any]:
    return [step async for step in handle.steps() if step.name.startswith(name)]


async def test_a_failed_handler_fails_its_update_only(client: Client, working: Working) -> None:
    @workflow
    async def fragile(ctx: Context) -> str:
        async def fail() -> None:
            await ctx.sleep(0)
            raise LookupError("gone")

        async def again() -> None:
            ctx.continue_as_new()

        ctx.on_update("fail", fail)
        ctx.on_update("again", again)
        return str(await ctx.wait_signal("end"))

    handle = await client.start_run(fragile, task_queue="tests")
    async with working(workflows=[fragile], **EVICTED):
        with pytest.raises(UpdateFailed, match="LookupError: gone"):
            await handle.update("fail", update_id="f")
        with pytest.raises(UpdateFailed, match="cannot continue"):
            await handle.update("again")
        await handle.signal("end", "well")
        assert await handle.result() == "well"
    with pytest.raises(UpdateFailed, match="LookupError: gone"):
        await handle.update("fail", update_id="f")


async def test_cancellation_reaches_what_waits(client: Client, working: Working) -> None:
    """The run's own line in a condition, and an update in its call; a replay meets it at the same places."""

    @workflow
    async def stubborn(ctx: Context) -> str:
        state = {"done": False}

        async def add() -> str:
            try:
                await ctx.wait_signal("never")
            except RunCancelled:
                state["done"] = True
                return "cancelled"
            return "signalled"

        ctx.on_update("add", add)
        await ctx.wait_until(lambda: True)
        try:
            await ctx.wait_until(lambda: state["done"])
        except RunCancelled:
            await ctx.sleep(0)
            await ctx.wait_until(lambda: state["done"])
            await ctx.wait_signal("end")
            raise
        return "not cancelled"

    handle = await client.start_run(stubborn, task_queue="tests")
    async with working(workflows=[stubborn], **EVICTED):
        asked = asyncio.create_task(handle.update("add"))
        await until(lambda: steps(handle, "__update"))
        await handle.cancel("enough")
        assert await asked == "cancelled"
        await suspended(handle)
        await handle.signal("end")
        with pytest.raises(RunFailed) as ended:
            await handle.result()
        assert ended.value.phase == "CANCELLED"


@workflow
async def turns(ctx: Context, kinds: str) -> list[int]:
    """Does what depends on how many updates have come, after each wait of each kind."""
    added: list[str] = []
    seen: list[int] = []

    async def add(name: str) -> int:
        added.append(name)
        await ctx.sleep(0)
        return len(added)

    ctx.on_update("add", add)
    for kind in kinds:
        if kind == "s":
            await ctx.wait_signal("go")
        elif kind == "g":
            await ctx.gather(ctx.wait_signal("go"), ctx.sleep(0))
        elif kind == "b":
            await ctx.gather(both(ctx, added), ctx.sleep(0))
        else:
            await more(ctx, added)
        seen.append(await ctx.step(f"see {len(added)}", len, list(added)))
    return seen


async def more(ctx: Context, added: list[str]) -> None:
    goal = len(added) + 1
    await ctx.wait_until(lambda: len(added) >= goal)


async def both(ctx: Context, added: list[str]) -> None:
    await ctx.sleep(0)
    await ctx.wait_signal("go")


@pytest.mark.parametrize("seed", range(6))
async def test_replays_begin_updates_where_they_were_accepted(client: Client, working: Working, seed: int) -> None:
    """What the run's own line calls depends on them at every turn, and its record never finds it changed."""
    rng = random.Random(seed)
    kinds = "".join(rng.choice("sgbu") for _ in range(8))
    handle = await client.start_run(turns, kinds, task_queue="tests")
    expected: list[int] = []
    count = 0
    async with working(workflows=[turns], **EVICTED):
        for kind in kinds:
            for _ in range(1 if kind == "u" else rng.randint(0, 2)):
                count += 1
                assert await handle.update("add", str(count)) == count
            if kind != "u":
                await handle.signal("go")
            expected.append(count)
            await until(lambda: steps(handle, "see"), lambda found: len(found) == len(expected))
        async with asyncio.timeout(60):
            assert await handle.result() == expected


async def test_programs_without_asyncio_ask_too(client: Client, working: Working) -> None:
    def converse(run_id: str) -> tuple[Any, Any]:
        with in_step.Client.connect(client.address) as connected:
            handle = connected.run(run_id, as_type=dict)
            count = handle.update("add", {"name": "pen", "count": 2}, timeout=60)
            total = handle.query("total").value
            handle.update("close", wait_for="accepted")
            return count, total

    handle = await client.start_run(cart, task_queue="tests")
    async with working(workflows=[cart], activities=[price]):
        assert await asyncio.to_thread(converse, handle.run_id) == (1, 20)


async def test_mistakes_of_the_code_are_its_own(client: Client, working: Working) -> None:
    @workflow
    async def mistaken(ctx: Context) -> list[str]:
        def publish_many() -> None:
            for number in range(17):
                ctx.publish(f"n{number}", number)

        told = []
        mistakes: list[Callable[[], None]] = [
            lambda: ctx.on_query("q", price),
            lambda: ctx.publish("big", b"x" * 70_000),
            publish_many,
        ]
        for mistake in mistakes:
            try:
                mistake()
            except (TypeError, ValueError) as error:
                told.append(type(error).__name__)
        ctx.on_query("steps", lambda: ctx.side_effect("s", int))
        ctx.on_update("boom", lambda: None, validator=lambda: ctx.side_effect("s", int))
        await ctx.wait_signal("end")
        return told

    handle = await client.start_run(mistaken, task_queue="tests")
    async with working(workflows=[mistaken]):
        with pytest.raises(reasons.QueryFailed, match="RuntimeError"):
            await handle.query("steps")
        with pytest.raises(UpdateRejected):
            await handle.update("boom")
        await handle.signal("end")
        assert await handle.result() == ["TypeError", "ValueError", "ValueError"]


async def test_the_command_asks_too(client: Client, working: Working) -> None:
    async def stepwell(*arguments: str) -> tuple[int | None, Any, str]:
        process = await asyncio.create_subprocess_exec(
            warm.command(), "--address", client.address, "run", *arguments, "-o", "json", stdout=PIPE, stderr=PIPE
        )
        out, err = await process.communicate()
        return process.returncode, json.loads(out or "null"), err.decode()

    handle = await client.start_run(cart, task_queue="tests", workflow_id="cart-1")
    async with working(workflows=[cart], activities=[price]):
        pen = ("update", "cart-1", "add", "--input", '{"name": "pen", "count": 2}', "--update-id", "u1")
        assert await stepwell(*pen) == (0, {"stage": "COMPLETED", "result": 1}, "")
        assert await stepwell(*pen, "--accepted") == (0, {"stage": "ACCEPTED", "result": None}, "")
        answer = {"result": 20, "live": True, "publish_time": None}
        assert await stepwell("query", "cart-1", "total") == (0, answer, "")
        code, _, err = await stepwell("update", "cart-1", "add", "--input", '{"name": "pen", "count": 0}')
        assert (code, "was rejected: ValueError" in err) == (1, True)
        code, _, err = await stepwell("query", "cart-1", "weight")
        assert (code, "UnknownQuery" in err) == (1, True)
        assert (await stepwell("update", "cart-1", "close"))[0] == 0
        await handle.result()
    code, answered, _ = await stepwell("query", "cart-1", "owner")
    assert (code, answered["result"], answered["live"]) == (0, "Ada", False)
