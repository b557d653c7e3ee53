"""Who loses a race, and what it hears: of ends that nobody saw, and of activities that end cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.engine.mended import rewind, steps_of
from tests.sdk.duet import Duet, state_name

from stepwell import Context, RaceLost
from stepwell_server.engine.activities import CancelledActivity
from stepwell_server.model.payloads import NULL


async def race(ctx: Context) -> Any:
    async def careful() -> Any:
        try:
            return await ctx.activity("act", name="work", wait_cancelled=True)
        except RaceLost:
            return await ctx.activity("act", name="undo")

    winner = await ctx.race(careful(), ctx.wait_signal("go"))
    return [winner.place, await ctx.wait_signal("end")]


async def begun() -> Duet:
    duet = Duet(race)
    await duet.grant()
    await duet.go_on()
    return duet


def record(duet: Duet) -> list[tuple[str, str, str]]:
    return [(step.scope, step.name, state_name(step)) for step in steps_of(duet.world, duet.key)]


def test_a_loser_that_had_ended_before_hears_nothing_in_a_replay() -> None:
    """Its activity was given up by its worker, which the code got past: no clean-up is made of it later."""

    async def scenario() -> None:
        duet = await begun()
        duet.finish(duet.named("go"))
        assert duet.world.grant(duet.key, duet.named("work").ordinal) is not None
        work = duet.named("work")
        duet.do(CancelledActivity(duet.world.ref(duet.key), work.ordinal, duet.world.session, work.grants, NULL))
        await duet.go_on()
        before = record(duet)
        assert before == [
            ("2", "go", "COMPLETED"),
            ("1", "work", "CANCELLED"),
            ("", "__race", "COMPLETED"),
            ("", "end", "WAITING"),
        ]
        await duet.lose()
        await duet.go_on()
        assert record(duet) == before

    asyncio.run(scenario())


async def stopped() -> Duet:
    """The loser's activity has ended as the race asked, and the worker is lost before the loser heard."""
    duet = await begun()
    duet.finish(duet.named("go"))
    await duet.tell(9)
    while duet.host.reported is not None and not duet.host.reported.stop_ordinals:
        await duet.answer()
    duet.commit()
    assert record(duet) == [("2", "go", "COMPLETED"), ("1", "work", "CANCELLED"), ("", "__race", "COMPLETED")]
    return duet


def test_a_loser_that_was_stopped_hears_in_the_replay() -> None:
    """Where the worker before was lost between the two."""

    async def scenario() -> None:
        duet = await stopped()
        await duet.lose()
        await duet.go_on()
        assert record(duet)[3:] == [("1", "__lost", "COMPLETED"), ("1", "undo", "PENDING")]

    asyncio.run(scenario())


def test_what_was_stopped_for_a_race_is_done_anew_with_it() -> None:
    """Also if its branch has yet to hear: else the race that is opened again would find it cancelled."""

    async def scenario() -> None:
        duet = await stopped()
        await duet.go_back(rewind(duet.world, duet.key, name="__race", key="1"))
        await duet.go_on()
        assert record(duet) == [
            ("2", "go", "COMPLETED"),
            ("1", "work", "CANCELLED"),
            ("", "__race", "COMPLETED"),
            ("1", "__lost", "COMPLETED"),
            ("1", "undo", "PENDING"),
        ]
        assert duet.records()[1].ordinal > 2

    asyncio.run(scenario())


def test_who_ended_first_wins_however_long_its_replay_takes() -> None:
    """Both ended while no worker had the run; the code of the first takes many turns to get there."""

    async def scenario() -> None:
        async def call(ctx: Context, name: str) -> Any:
            return await ctx.activity("act", name=name)

        async def long(ctx: Context) -> None:
            for _ in range(8):
                await ctx.gather(call(ctx, "a"), call(ctx, "b"))

        async def uneven(ctx: Context) -> int:
            return (await ctx.race(ctx.wait_signal("go"), long(ctx))).place

        duet = Duet(uneven)
        await duet.grant()
        await duet.go_on()
        for _ in range(7):
            duet.finish(duet.named("a"))
            duet.finish(duet.named("b"))
            await duet.go_on()
        for name in ("a", "b", "go"):
            duet.finish(duet.named(name))
        await duet.lose()
        await duet.go_on()
        assert [step.winner for step in duet.records() if step.name == "__race"] == [2]

    asyncio.run(scenario())
