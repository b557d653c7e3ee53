"""Concurrency limits: who is at work, who waits, who is cancelled, and that a slot is free once its run has ended."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from tests.sdk.live import Live
from tests.stream.kit import until

from stepwell import Concurrency, Context, RetryPolicy, RunCancelled, RunFailed, RunHandle, workflow
from stepwell.policies import Strategy
from stepwell.runs import phase_name
from stepwell.v1.concurrency_pb2 import SLOT_STATE_AWAITED, SLOT_STATE_HELD, SLOT_STATE_UNSPECIFIED


@workflow
async def gated(ctx: Context, again: int = 0) -> str:
    """Waits for the word to end; or goes on as new so many times first. A cancelled one waits for a word, too."""
    try:
        await ctx.wait_signal("go")
    except RunCancelled:
        await ctx.wait_signal("cleaned")
        raise
    if again > 0:
        ctx.continue_as_new(again - 1)
    if again < 0:
        raise ValueError("told to fail")
    return "done"


@workflow
async def parent(ctx: Context) -> str:
    limit = Concurrency(key="k", strategy="cancel_newest")
    return await ctx.child(gated, 0, concurrency=limit)


async def state(run: RunHandle[Any]) -> tuple[str, int]:
    seen = await run.describe()
    return phase_name(seen.phase), seen.slot_state


async def states(runs: Iterable[RunHandle[Any]]) -> list[tuple[str, int]]:
    return [await state(run) for run in runs]


async def has_slot(*runs: RunHandle[Any]) -> None:
    await until(lambda: states(runs), lambda found: all(held == SLOT_STATE_HELD for _, held in found))


async def is_waiting(*runs: RunHandle[Any]) -> None:
    assert set(await states(runs)) == {("PENDING", SLOT_STATE_AWAITED)}


async def start(
    live: Live, again: int = 0, *, key: str = "k", most: int = 1, strategy: Strategy = "queue", **options: Any
) -> RunHandle[Any]:
    limit = Concurrency(key=key, maximum_runs=most, strategy=strategy, name="jobs")
    return await live.client.start_run(gated, again, concurrency=limit, **options)


async def test_runs_of_a_key_wait_in_their_order(one: Live) -> None:
    """The second begins when the first has ended, however it ended; other keys have nothing to do with it."""
    async with one.working(workflows=[gated]):
        first, second, third, fourth = [await start(one) for _ in range(4)]
        other = await start(one, key="other")
        await has_slot(first, other)
        await is_waiting(second, third, fourth)
        found = [(await run.explain())[0] for run in (second, third, fourth)]
        assert [each.ahead_count for each in found] == [0, 1, 2]
        assert "key k: 2 before it" in found[2].text
        await first.signal("go")
        assert await first.result() == "done"
        await has_slot(second)
        await is_waiting(third, fourth)
        await second.terminate()
        await has_slot(third)
        await fourth.cancel()
        assert await state(fourth) == ("CANCELLED", SLOT_STATE_UNSPECIFIED)
        await third.signal("go")
        await third.result()
        fifth = await start(one)
        await has_slot(fifth)
        assert [event.type async for event in fifth.history()][:2] == ["RunStarted", "RunAdmitted"]


async def test_the_latest_in_the_line_says_how_many(one: Live) -> None:
    async with one.working(workflows=[gated]):
        first, second = await start(one), await start(one)
        await has_slot(first)
        third = await start(one, most=3)
        await has_slot(second, third)
        fourth = await start(one, most=2)
        for run in (first, second):
            await run.signal("go")
            await run.result()
        await has_slot(fourth)


async def test_older_runs_are_cancelled_for_a_newer_one(one: Live) -> None:
    """What is at work is asked, and may clean up; what nobody has begun ends at once. The newest gets the slot."""
    async with one.working(workflows=[gated]):
        first = await start(one, strategy="cancel_in_progress")
        await has_slot(first)
        second = await start(one, strategy="cancel_in_progress")
        await until(first.describe, lambda run: run.HasField("cancel_request"))
        await is_waiting(second)
        third = await start(one, strategy="cancel_in_progress")
        await until(lambda: state(second), lambda found: found[0] == "CANCELLED")
        assert "jobs: a newer run takes its place" in (await first.describe()).cancel_request.reason
        await is_waiting(third)
        await first.signal("cleaned")
        await has_slot(third)
        assert (await state(first))[0] == "CANCELLED"


async def test_a_newer_run_is_cancelled(one: Live) -> None:
    """It has ended before it began, and says why; a parent hears it as the end of its child."""
    async with one.working(workflows=[gated, parent]):
        first, second = [await start(one, most=2, strategy="cancel_newest") for _ in range(2)]
        await has_slot(first, second)
        third = await start(one, most=2, strategy="cancel_newest")
        await until(lambda: state(third), lambda found: found[0] == "CANCELLED")
        assert (await third.describe()).cancel_request.reason == "concurrency limit jobs: there is no free slot"
        await first.signal("go")
        await first.result()
        await has_slot(await start(one, most=2, strategy="cancel_newest"))
        one_child = await one.client.start_run(parent)
        await until(lambda: state(one_child), lambda found: found[0] == "SUSPENDED")  # its child has the other slot
        refused = await one.client.start_run(parent)
        with pytest.raises(RunFailed, match="there is no free slot"):
            await refused.result()
        assert (await state(one_child))[0] == "SUSPENDED"


async def test_a_slot_is_kept_through_attempts_and_by_who_goes_on(one: Live) -> None:
    """Neither a failure that is tried again nor going on as new lets anybody else in."""
    async with one.working(workflows=[gated]):
        chain = await start(one, 1)
        await has_slot(chain)
        second = await start(one, -1, retry=RetryPolicy(initial_interval=3600))
        await chain.signal("go")
        run = await until(chain.describe, lambda run: run.continued_run_id)
        following: RunHandle[Any] = one.client.run(run.continued_run_id)
        await has_slot(following)
        await is_waiting(second)
        await following.signal("go")
        await has_slot(second)
        third = await start(one)
        await second.signal("go")
        await until(second.describe, lambda run: run.attempt == 2)
        assert await state(second) == ("PENDING", SLOT_STATE_HELD)
        await is_waiting(third)
        await second.terminate()
        await has_slot(third)


async def test_a_run_that_is_opened_again_waits_anew(one: Live) -> None:
    async with one.working(workflows=[gated]):
        first = await start(one)
        await has_slot(first)
        await first.terminate()
        second = await start(one)
        await has_slot(second)
        await first.retry()
        assert (await state(first))[1] == SLOT_STATE_AWAITED
        await second.terminate()
        await has_slot(first)


async def test_a_start_that_is_delayed_comes_when_its_time_has_come(one: Live) -> None:
    """It takes no slot, and no place in the line, before that."""
    async with one.working(workflows=[gated]):
        delayed = await start(one, start_delay=3600)
        assert await state(delayed) == ("PENDING", SLOT_STATE_UNSPECIFIED)
        await has_slot(await start(one))
        soon = await start(one, start_delay=0.05)
        await until(lambda: state(soon), lambda found: found[1] == SLOT_STATE_AWAITED)


async def test_a_paused_run_keeps_its_place(one: Live) -> None:
    """It gets its slot in its turn, and no task before it is let go on."""
    async with one.working(workflows=[gated]):
        first, second = await start(one), await start(one)
        await has_slot(first)
        await second.pause("wait")
        await first.terminate()
        await has_slot(second)
        assert (await second.describe()).HasField("pause")
        assert not (await second.describe()).HasField("task_wait")
        await second.resume()
        await second.signal("go")
        assert await second.result() == "done"


async def test_keys_of_a_limit_go_in_turn(one: Live) -> None:
    """One slot for all of them: who has started many does not keep the others waiting until all of his have ended."""
    async with one.working(workflows=[gated]):
        runs = [await start(one, key=key, strategy="round_robin") for key in ("a", "a", "a", "b", "c")]
        for place in (0, 3, 4, 1, 2):
            await has_slot(runs[place])
            await runs[place].signal("go")
            await runs[place].result()
