"""A workflow's code and its activities when the run is asked to cancel, against the service itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.sdk.live import Live, live
from tests.stream.kit import until

from stepwell import Context, RunCancelled, RunFailed, RunHandle, activity, workflow
from stepwell.v1 import types_pb2

told: list[str] = []
began: list[asyncio.Event] = [asyncio.Event()]
accepted: list[asyncio.Event] = [asyncio.Event()]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    told.clear()
    began[0] = asyncio.Event()
    accepted[0] = asyncio.Event()


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Live]:
    async with live(database_url) as running:
        yield running


@activity
async def works(name: str) -> str:
    """Works until it is asked to stop, and then cleans up for a moment."""
    told.append(f"{name} began")
    began[0].set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        told.append(f"{name} stopped")
        raise
    return name


@activity
async def insists(name: str) -> str:
    """Does not let itself be stopped, however long it takes to be asked to."""
    began[0].set()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    told.append(f"{name} was asked")
    told.append(f"{name} finished")
    return name


@activity
async def finishes(name: str) -> str:
    """Ends by itself, some time after the run was cancelled."""
    began[0].set()
    try:
        await accepted[0].wait()
        # Long enough for a cancellation that must not reach it.
        await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        told.append(f"{name} was asked")
    told.append(f"{name} finished")
    return name


@activity
async def cleans(name: str) -> str:
    # Long enough for a cancellation that must not reach it.
    await asyncio.sleep(0.1)
    told.append(f"{name} cleaned")
    return name


async def cancelled(handle: RunHandle[Any]) -> RunFailed:
    await asyncio.wait_for(began[0].wait(), 60)
    assert await handle.cancel("enough")
    accepted[0].set()
    with pytest.raises(RunFailed) as caught:
        await asyncio.wait_for(handle.result(), 60)
    return caught.value


async def states(handle: RunHandle[Any]) -> dict[str, str]:
    names = {step.name: types_pb2.StepState.Name(step.state) async for step in handle.steps()}
    return {name: state.removeprefix("STEP_STATE_") for name, state in names.items() if not name.startswith("__")}


async def test_an_activity_is_stopped_and_clean_up_is_not(service: Live) -> None:
    """The code hears at once; what it schedules from then on is done to its end."""

    @workflow
    async def careful(ctx: Context) -> None:
        try:
            await ctx.activity(works, "work")
        except RunCancelled as error:
            told.append(f"code heard {error.reason}")
            await ctx.activity(cleans, "it")
            raise

    async with service.working(workflows=[careful], activities=[works, cleans]):
        handle = await service.client.start_run(careful)
        assert (await cancelled(handle)).phase == "CANCELLED"
        await until(lambda: "work stopped" in told)
    assert set(told) == {"work began", "code heard enough", "work stopped", "it cleaned"}
    assert await states(handle) == {"works": "CANCELLED", "cleans": "COMPLETED"}


async def test_code_may_wait_for_the_activity_s_own_end(service: Live) -> None:
    """`wait_cancelled`: it hears of the cancellation once the activity has stopped, and clean-up comes after."""

    @workflow
    async def patient(ctx: Context) -> None:
        try:
            await ctx.activity(works, "work", wait_cancelled=True)
        except RunCancelled:
            told.append("code heard")
            raise

    async with service.working(workflows=[patient], activities=[works]):
        handle = await service.client.start_run(patient)
        assert (await cancelled(handle)).phase == "CANCELLED"
    assert told == ["work began", "work stopped", "code heard"]


async def test_an_activity_that_finishes_all_the_same(service: Live) -> None:
    """Who waits for it gets its result, and hears of the cancellation at the next call."""

    @workflow
    async def patient(ctx: Context) -> None:
        told.append(await ctx.activity(insists, "work", wait_cancelled=True))
        await ctx.sleep(60)

    async with service.working(workflows=[patient], activities=[insists]):
        handle = await service.client.start_run(patient)
        assert (await cancelled(handle)).phase == "CANCELLED"
    assert told == ["work was asked", "work finished", "work"]


async def test_what_is_shielded_is_finished_first(service: Live) -> None:
    """Its activities are not asked to stop, also in branches of it; the code hears afterwards."""

    @workflow
    async def shields(ctx: Context) -> None:
        async def inner() -> list[str]:
            both = await ctx.gather(ctx.activity(finishes, "left"), ctx.activity(finishes, "right"))
            return [*both, await ctx.activity(cleans, "inner")]

        told.append("+".join(await ctx.shield(inner())))
        told.append(await ctx.shield(ctx.activity(cleans, "single")))
        try:
            await ctx.activity(works, "never")
        except RunCancelled:
            told.append("code heard")
            raise

    async with service.working(workflows=[shields], activities=[finishes, cleans, works]):
        handle = await service.client.start_run(shields)
        assert (await cancelled(handle)).phase == "CANCELLED"
    assert sorted(told[:2]) == ["left finished", "right finished"]
    assert told[2:] == ["inner cleaned", "left+right+inner", "single cleaned", "single", "code heard"]


async def test_a_replay_hears_in_the_same_places(service: Live) -> None:
    """Of a step that the cancellation ended, of a shield, and of clean-up that still goes on."""

    @workflow
    async def long(ctx: Context) -> None:
        async def branch(name: str) -> None:
            try:
                await ctx.activity(works, name, wait_cancelled=name == "patient")
            except RunCancelled:
                told.append(f"{name} heard")
                await ctx.wait_signal("go on")
                raise

        told.append(await ctx.shield(ctx.activity(cleans, "first")))
        await ctx.gather(branch("patient"), branch("hasty"), ctx.activity(works, "bare"))

    options: dict[str, Any] = {"workflows": [long], "activities": [works, cleans]}
    async with service.working(**options):
        handle = await service.client.start_run(long)
        await until(lambda: sum(each.endswith("began") for each in told) == 3)
        await handle.cancel("enough")
        await until(lambda: {"patient heard", "hasty heard", "patient stopped"} <= set(told))
        waiting = [step.name async for step in handle.steps() if step.name == "go on"]
        await until(lambda: service.server.count(handle.run_id, "WaitStarted"), lambda count: count == 2)
        assert len(waiting) <= 2
    told.clear()
    async with service.working(**options):
        await until(lambda: {"patient heard", "hasty heard"} <= set(told))
        await handle.signal("go on")
        await handle.signal("go on")
        with pytest.raises(RunFailed) as caught:
            await asyncio.wait_for(handle.result(), 60)
    assert caught.value.phase == "CANCELLED"
    assert "bare began" not in told


async def test_a_failure_after_the_request_is_not_tried_again(service: Live) -> None:
    """What was asked to stop has stopped, however: the code that waited for it hears of the cancellation."""

    @activity
    async def fails() -> None:
        began[0].set()
        told.append("tried")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("could not stop") from None

    @workflow
    async def patient(ctx: Context) -> None:
        await ctx.activity(fails, wait_cancelled=True)

    async with service.working(workflows=[patient], activities=[fails]):
        handle = await service.client.start_run(patient)
        assert (await cancelled(handle)).phase == "CANCELLED"
        (step,) = [step async for step in handle.steps() if step.name == "fails"]
    assert (types_pb2.StepState.Name(step.state), step.failure.type) == ("STEP_STATE_CANCELLED", "ValueError")
    assert told == ["tried"]
