"""What races send, and what is made up for when a worker is lost in the middle of one."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.sdk.duet import Duet

from stepwell import Context, RaceLost


async def raced(ctx: Context) -> list[Any]:
    first = await ctx.race(ctx.activity("act"), ctx.wait_signal("s"))
    return [first.place, await ctx.activity("act", name="after")]


def test_nothing_is_given_up_before_the_winner_is_sent() -> None:
    """Where a progress has no room for all, what is cancelled goes with the last: the winner's marker may be in it."""

    async def scenario() -> None:
        duet = Duet(lambda ctx: wide(ctx, 400))
        await duet.grant()
        await duet.answer()
        await duet.answer()
        duet.finish(duet.open_steps()[0])
        await duet.tell(1)
        sent = []
        while duet.host.reported is not None:
            sent.append((len(duet.host.reported.steps), len(duet.host.reported.cancel_ordinals)))
            await duet.answer()
        # The winner, and where each of the others heard.
        assert sent == [(256, 0), (144, 399)]
        assert duet.end

    async def wide(ctx: Context, count: int) -> int:
        return (await ctx.race(*(ctx.activity("act") for _ in range(count)))).place

    asyncio.run(scenario())


def test_a_loser_s_step_is_given_up_by_the_next_worker_too() -> None:
    """The worker was lost after the record of the loss, and before it could say which step that meant."""

    async def quick(ctx: Context) -> list[Any]:
        async def at_once() -> str:
            return ctx.side_effect("fact", lambda: "fact")

        return [(await ctx.race(ctx.activity("act"), at_once())).place, await ctx.activity("act", name="after")]

    async def scenario() -> None:
        duet = Duet(quick)
        await duet.grant()
        duet.commit()
        assert [step.name for step in duet.open_steps()] == ["act", "after"]
        await duet.lose()
        await duet.answer()
        assert [step.name for step in duet.open_steps()] == ["after"]
        duet.check()

    asyncio.run(scenario())


def test_what_the_winner_led_to_is_never_on_record_without_it() -> None:
    """Whichever answer is lost: the marker stands before it, and the next worker takes the same branch."""

    async def scenario() -> None:
        for is_committed in (False, True):
            duet = Duet(raced)
            await duet.grant()
            await duet.answer()
            duet.finish(duet.open_steps()[1])
            await duet.tell(1)
            if is_committed:
                duet.commit()
            names = [record.name for record in duet.records()]
            assert names[2:] == (["__race", "__lost", "after"] if is_committed else [])
            for step in duet.open_steps():
                if step.name == "act":
                    duet.finish(step)
            await duet.lose()
            await finished(duet)
            assert duet.records()[2].winner == 2

    asyncio.run(scenario())


def test_a_loser_at_a_function_is_waited_for() -> None:
    """It hears at its next call; its step is recorded."""

    async def scenario() -> None:
        heard: list[str] = []

        async def slow(ctx: Context) -> None:
            try:
                await ctx.step("slow", lambda: "slow")
                await ctx.activity("act")
            except RaceLost:
                heard.append("lost")
                raise

        async def both(ctx: Context) -> int:
            return (await ctx.race(slow(ctx), ctx.sleep(60))).place

        duet = Duet(both)
        await duet.grant()
        await duet.answer()
        duet.finish(duet.open_steps()[0])
        await duet.tell(1)
        await duet.answer()
        assert duet.host.reported is None
        assert not heard
        await duet.open_gate()
        await finished(duet)
        assert heard == ["lost"]
        assert [(record.scope, record.name) for record in duet.records()] == [
            ("2", "sleep"),
            ("", "__race"),
            ("1", "slow"),
            ("1", "__lost"),
        ]

    asyncio.run(scenario())


async def finished(duet: Duet) -> None:
    """Everything comes, in its order, until the run ends."""
    while not duet.end:
        if duet.host.reported is not None:
            await duet.answer()
        elif duet.news:
            await duet.tell(9)
        else:
            duet.finish(duet.open_steps()[0])
