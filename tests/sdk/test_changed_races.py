"""Races that were changed under their runs: such code is never taken for a run that was cancelled, or that failed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.sdk.duet import Duet, Program

from stepwell import Context, RunCancelled
from stepwell_server import errors
from stepwell_server.engine.runs import ResumeRun
from stepwell_server.model.runs import ORDER_CHANGED, Phase


async def finish(duet: Duet, name: str) -> None:
    """What the open step of that name waits for comes, and the code goes on."""
    duet.finish(duet.named(name))
    await duet.go_on()


async def race(ctx: Context) -> Any:
    winner = await ctx.race(ctx.activity("act", name="work"), ctx.sleep(60, name="limit"))
    return [winner.place, await ctx.wait_signal("end")]


async def gather(ctx: Context) -> Any:
    return [
        *await ctx.gather(ctx.activity("act", name="work"), ctx.sleep(60, name="limit")),
        await ctx.wait_signal("end"),
    ]


async def fewer(ctx: Context) -> Any:
    winner = await ctx.race(ctx.activity("act", name="work"))
    return [winner.place, await ctx.wait_signal("end")]


async def two(ctx: Context) -> Any:
    async def quick() -> None:
        """Finishes without a call."""

    return [(await ctx.race(ctx.sleep(60, name="limit"), quick())).place, await ctx.wait_signal("end")]


async def one(ctx: Context) -> Any:
    return [(await ctx.race(ctx.sleep(60, name="limit"))).place, await ctx.wait_signal("end")]


async def heard_elsewhere(ctx: Context) -> Any:
    async def careful() -> None:
        try:
            await ctx.wait_until(lambda: False)
        except RunCancelled:
            await ctx.activity("act", name="undo")

    winner = await ctx.race(ctx.activity("act", name="work"), careful())
    return [winner.place, await ctx.wait_signal("end")]


async def heard_nowhere(ctx: Context) -> Any:
    async def careful() -> None:
        await ctx.wait_until(lambda: False)

    return [await ctx.gather(ctx.activity("act", name="work"), careful()), await ctx.wait_signal("end")]


@pytest.mark.parametrize(
    ("before", "winner", "after"),
    [
        pytest.param(race, "work", gather, id="a race that became a gather"),
        pytest.param(heard_elsewhere, "work", heard_nowhere, id="whose loser waited for a condition"),
        pytest.param(race, "limit", fewer, id="the winner's branch is gone"),
        pytest.param(two, "", one, id="the branch that won without a call is gone"),
    ],
)
def test_a_changed_race_pauses_its_run(before: Program, winner: str, after: Program) -> None:
    async def scenario() -> None:
        duet = Duet(before)
        await duet.grant()
        await duet.go_on()
        if winner:
            await finish(duet, winner)
        duet.program = after
        await duet.lose()
        with pytest.raises(errors.StepOrderChanged):
            await duet.go_on()
        assert duet.world.run(duet.key).pause_reason == ORDER_CHANGED
        duet.program = before
        await go_back(duet)
        while not duet.end:
            await finish(duet, duet.open_steps()[0].name)
        assert duet.world.closed(duet.key).phase == Phase.COMPLETED

    asyncio.run(scenario())


async def go_back(duet: Duet) -> None:
    """The code is mended again."""
    duet.drop()
    duet.world.do(ResumeRun(duet.world.ref(duet.key), accept_order=True))
    await duet.grant()
    await duet.go_on()


def test_a_call_that_stands_in_two_branches_is_refused() -> None:
    """Its step would answer for one of them only, and the other would wait for ever."""

    async def twice(ctx: Context) -> Any:
        call = ctx.activity("act", name="work")
        return await ctx.gather(call, call)

    async def scenario() -> None:
        duet = Duet(twice)
        await duet.grant()
        await duet.go_on()
        await finish(duet, "work")
        assert duet.run is not None
        assert duet.run.end is not None
        assert "awaited once" in duet.run.end["fail"].failure.message

    asyncio.run(scenario())
