"""What branches come to together: failures, their order, cancellation, and gathers and races inside of each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.sdk.live import Live, live
from tests.stream.kit import until

from stepwell import ActivityFailed, Context, RaceLost, RetryPolicy, RunCancelled, RunFailed, activity, workflow

ONCE = RetryPolicy(maximum_attempts=1)
told: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    told.clear()


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Live]:
    async with live(database_url) as running:
        yield running


@activity
async def says(name: str) -> str:
    told.append(name)
    return name


@activity(retry=ONCE)
async def breaks(name: str) -> str:
    raise ValueError(name)


def failure(error: BaseException) -> str:
    """What the activity raised."""
    assert isinstance(error, ActivityFailed)
    assert error.failure is not None
    return f"{error.failure.type} {error.failure.message}"


async def test_a_failure_waits_for_the_others_and_does_not_stop_them(service: Live) -> None:
    """The first in order that failed is raised, though another failed before; so a replay raises the same one."""

    @workflow
    async def both(ctx: Context) -> list[str]:
        async def late() -> str:
            await ctx.wait_signal("go")
            return await ctx.activity(breaks, "late")

        async def slow() -> None:
            await ctx.wait_signal("go on")
            told.append(await ctx.activity(says, "done"))

        try:
            await ctx.gather(late(), ctx.activity(breaks, "early"), slow())
        except ActivityFailed as error:
            heard = failure(error)
        return [heard, await ctx.wait_signal("end")]

    options: dict[str, Any] = {"workflows": [both], "activities": [says, breaks]}
    async with service.working(**options):
        handle = await service.client.start_run(both)
        await until(lambda: service.server.count(handle.run_id, "ActivityFailed"), lambda count: count == 1)
        await handle.signal("go")
        await until(lambda: service.server.count(handle.run_id, "ActivityFailed"), lambda count: count == 2)
        await handle.signal("go on")
        await until(lambda: service.server.count(handle.run_id, "WaitStarted"), lambda count: count == 3)
    async with service.working(**options):
        await handle.signal("end", "end")
        assert await asyncio.wait_for(handle.result(), 60) == ["ValueError late", "end"]
    assert told[:2] == ["done", "done"]


async def test_failures_may_stand_among_the_results(service: Live) -> None:
    """`return_exceptions`, also of a map; nothing is raised for them."""

    @workflow
    async def mixed(ctx: Context) -> list[Any]:
        first = await ctx.gather(ctx.activity(says, "a"), ctx.activity(breaks, "b"), return_exceptions=True)
        then = await ctx.map(breaks, ["c", "d"], limit=1, return_exceptions=True)
        return [each if isinstance(each, str) else failure(each) for each in [*first, *then]]

    async with service.working(workflows=[mixed], activities=[says, breaks]):
        handle = await service.client.start_run(mixed)
        assert await asyncio.wait_for(handle.result(), 60) == ["a", "ValueError b", "ValueError c", "ValueError d"]


async def test_what_is_nested_fails_as_one_branch(service: Live) -> None:
    """A gather inside a gather, and a race inside of one; a gather inside a race."""

    @workflow
    async def nested(ctx: Context) -> list[str]:
        async def inner() -> list[str]:
            return await ctx.gather(
                ctx.activity(says, "one"), ctx.activity(breaks, "two"), ctx.activity(breaks, "three")
            )

        async def raced() -> str:
            return (await ctx.race(ctx.wait_signal("never"), ctx.activity(breaks, "four"))).value

        found = await ctx.gather(inner(), raced(), inner(), return_exceptions=True)
        heard = [failure(each) for each in found if isinstance(each, Exception)]
        try:
            await ctx.race(ctx.sleep(600), inner())
        except ActivityFailed as error:
            heard.append(failure(error))
        return heard

    async with service.working(workflows=[nested], activities=[says, breaks]):
        handle = await service.client.start_run(nested)
        assert await asyncio.wait_for(handle.result(), 60) == [
            "ValueError two",
            "ValueError four",
            "ValueError two",
            "ValueError two",
        ]


@pytest.mark.parametrize("keeps", [False, True])
async def test_a_cancellation_goes_before_failures(service: Live, *, keeps: bool) -> None:
    """In a gather with a race in it and a race with a gather in it, with `return_exceptions` and without."""

    @workflow
    async def wide(ctx: Context) -> None:
        async def branch(name: str) -> None:
            try:
                await ctx.wait_signal("never")
            except RunCancelled as error:
                told.append(f"{name} {type(error).__name__}")
                raise

        async def race(name: str) -> None:
            await ctx.race(branch(f"{name}.1"), branch(f"{name}.2"))

        async def several(name: str) -> None:
            await ctx.gather(
                ctx.activity(breaks, name), branch(f"{name}.1"), race(f"{name}.2"), return_exceptions=keeps
            )

        await ctx.race(several("a"), branch("b"))

    options: dict[str, Any] = {"workflows": [wide], "activities": [breaks]}
    async with service.working(**options):
        handle = await service.client.start_run(wide)
        await until(lambda: service.server.count(handle.run_id, "ActivityFailed"), lambda count: count == 1)
        await until(lambda: service.server.count(handle.run_id, "WaitStarted"), lambda count: count == 4)
        await handle.cancel("enough")
        with pytest.raises(RunFailed) as caught:
            await asyncio.wait_for(handle.result(), 60)
    assert caught.value.phase == "CANCELLED"
    assert sorted(told) == [f"{name} RunCancelled" for name in ("a.1", "a.2.1", "a.2.2", "b")]


async def test_a_loss_goes_before_failures_and_stops_at_a_shield(service: Live) -> None:
    """A gather that loses ends by the loss when its branches have heard; what it shields is finished first."""

    @workflow
    async def lost(ctx: Context) -> str:
        async def kept() -> None:
            told.append(await ctx.wait_signal("kept", as_type=str))

        async def several() -> None:
            try:
                await ctx.gather(ctx.activity(breaks, "x"), ctx.wait_signal("never"), ctx.shield(kept()))
            except BaseException as error:
                told.append(type(error).__name__)
                raise

        winner = await ctx.race(several(), ctx.wait_signal("go", as_type=str))
        told.append("went on")
        return winner.value or ""

    async with service.working(workflows=[lost], activities=[breaks]):
        handle = await service.client.start_run(lost)
        await until(lambda: service.server.count(handle.run_id, "WaitStarted"), lambda count: count == 3)
        await handle.signal("go", "went")
        await until(lambda: service.server.count(handle.run_id, "WaitCancelled"), lambda count: count == 1)
        assert told == []
        await handle.signal("kept", "kept")
        assert await asyncio.wait_for(handle.result(), 60) == "went"
    assert told == ["kept", RaceLost.__name__, "went on"]
