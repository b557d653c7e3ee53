"""Races of branches against the service itself: who wins, what becomes of the others, and what a replay makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.sdk.live import Live, live
from tests.stream.kit import until

from stepwell import (
    ActivityFailed,
    Context,
    RaceLost,
    RetryPolicy,
    RunCancelled,
    RunFailed,
    RunHandle,
    WaitTimeout,
    activity,
    workflow,
)
from stepwell.v1 import runs_pb2, types_pb2

told: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    told.clear()


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Live]:
    async with live(database_url) as running:
        yield running


@activity
async def works(name: str) -> str:
    """Works until it is asked to stop."""
    told.append(f"{name} began")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        told.append(f"{name} stopped")
        raise
    return name


@activity
async def says(name: str) -> str:
    told.append(f"said {name}")
    return name


@activity
async def breaks(name: str) -> str:
    raise ValueError(name)


async def record(handle: RunHandle[Any]) -> list[tuple[str, str, str, str]]:
    steps = [step async for step in handle.steps()]
    return [(step.scope, step.name, step.key, _state(step)) for step in steps]


def _state(step: runs_pb2.Step) -> str:
    return types_pb2.StepState.Name(step.state).removeprefix("STEP_STATE_")


async def test_the_first_one_wins_and_the_others_are_given_up(service: Live) -> None:
    """The winner is on record, and where the loser heard; its timer is gone."""

    @workflow
    async def race(ctx: Context) -> list[Any]:
        place, value = await ctx.race(ctx.sleep(60), ctx.activity(says, "quick"))
        return [place, value, await ctx.activity(says, "after")]

    async with service.working(workflows=[race], activities=[says]):
        handle = await service.client.start_run(race)
        assert await asyncio.wait_for(handle.result(), 60) == [1, "quick", "after"]
    steps = [step async for step in handle.steps()]
    assert [(step.scope, step.name, step.key, _state(step)) for step in steps] == [
        ("1", "sleep", "", "CANCELLED"),
        ("2", "says", "", "COMPLETED"),
        ("", "__race", "1", "COMPLETED"),
        ("1", "__lost", "1", "COMPLETED"),
        ("", "says", "", "COMPLETED"),
    ]
    assert (steps[2].result.json, steps[3].result.json) == ("2", '"wait"')


async def test_work_whose_time_is_over_is_stopped(service: Live) -> None:
    """`timeout`: the activity's worker is asked to stop, and the code goes on with the failure."""

    @workflow
    async def bounded(ctx: Context) -> str:
        try:
            return await ctx.timeout(ctx.activity(works, "slow"), 0.2)
        except WaitTimeout as error:
            return f"{error} after {await ctx.timeout(ctx.activity(says, 'quick'), 60)}"

    async with service.working(workflows=[bounded], activities=[works, says]):
        handle = await service.client.start_run(bounded)
        assert "timeout" in await asyncio.wait_for(handle.result(), 60)
        await until(lambda: "slow stopped" in told)
    assert [state for _, name, _, state in await record(handle) if name in {"works", "says"}] == [
        "CANCELLED",
        "COMPLETED",
    ]


async def test_a_loser_cleans_up_before_the_code_goes_on(service: Live) -> None:
    """In each of its branches once; what it comes to does not matter, nor what it fails with."""

    @workflow
    async def tidy(ctx: Context) -> str:
        async def slow(name: str) -> str:
            try:
                return await ctx.activity(works, name)
            except RaceLost:
                told.append(f"{name} heard")
                await ctx.activity(says, f"undo {name}")
                raise

        async def both() -> str:
            try:
                return "+".join(await ctx.gather(slow("one"), slow("two")))
            except RunCancelled as error:
                told.append(f"{type(error).__name__} {ctx.is_cancelled}")
                await ctx.activity(says, "undo both")
                raise ValueError("does not matter") from error

        winner = await ctx.race(both(), ctx.wait_signal("go", as_type=str))
        told.append("went on")
        return winner.value

    async with service.working(workflows=[tidy], activities=[works, says]):
        handle = await service.client.start_run(tidy)
        await until(lambda: {"one began", "two began"} <= set(told))
        await handle.signal("go", "now")
        assert await asyncio.wait_for(handle.result(), 60) == "now"
    assert (
        told.index("went on") > told.index("said undo both") > max(told.index(f"said undo {n}") for n in ("one", "two"))
    )
    assert sorted(each for each in told if each.endswith("heard")) == ["one heard", "two heard"]
    assert "RaceLost False" in told


async def test_the_winner_s_failure_is_what_the_race_comes_to(service: Live) -> None:
    """Failing is finishing; others of the race are given up all the same."""

    @workflow
    async def race(ctx: Context) -> str:
        try:
            await ctx.race(
                ctx.activity(breaks, "down", retry=RetryPolicy(maximum_attempts=1)), ctx.wait_signal("never")
            )
        except ActivityFailed as error:
            return error.failure.message if error.failure is not None else ""
        return "no"

    async with service.working(workflows=[race], activities=[breaks]):
        handle = await service.client.start_run(race)
        assert await asyncio.wait_for(handle.result(), 60) == "down"
    assert ("2", "never", "", "CANCELLED") in await record(handle)


async def test_a_replay_takes_the_same_winner(service: Live) -> None:
    """Also when the loser's step ended before it could be given up, and in nested races."""

    @workflow
    async def race(ctx: Context) -> list[Any]:
        async def inner() -> Any:
            return list(await ctx.race(ctx.wait_signal("late"), ctx.wait_signal("early")))

        outer = await ctx.race(ctx.wait_signal("never"), inner())
        told.append(f"{outer.place} {outer.value}")
        return [outer.value, await ctx.wait_signal("end")]

    options: dict[str, Any] = {"workflows": [race], "activities": []}
    async with service.working(**options):
        handle = await service.client.start_run(race)
        await handle.signal("early", 1)
        await until(lambda: bool(told))
        await until(lambda: service.server.count(handle.run_id, "WaitStarted"), lambda count: count == 4)
    await handle.signal("late", 2)
    await handle.signal("never", 3)
    async with service.working(**options):
        await until(lambda: len(told) == 2)
        await handle.signal("end", "end")
        assert await asyncio.wait_for(handle.result(), 60) == [[1, 1], "end"]
    assert told == ["1 [1, 1]"] * 2


async def test_of_two_that_ended_unseen_the_earlier_wins(service: Live) -> None:
    """The order in which they ended decides, not that in which a worker looks at them."""

    @workflow
    async def race(ctx: Context) -> list[Any]:
        return list(await ctx.race(ctx.wait_signal("second"), ctx.wait_signal("first")))

    async with service.working(workflows=[race], activities=[]):
        handle = await service.client.start_run(race)
        await until(lambda: service.server.count(handle.run_id, "WaitStarted"), lambda count: count == 2)
    await handle.signal("first", 1)
    await handle.signal("second", 2)
    async with service.working(workflows=[race], activities=[]):
        assert await asyncio.wait_for(handle.result(), 60) == [1, 1]


async def test_a_cancelled_run_s_race_has_no_winner(service: Live) -> None:
    """All branches hear; the run ends cancelled once they have cleaned up, and a replay finds the same."""

    @workflow
    async def race(ctx: Context) -> None:
        async def careful() -> None:
            try:
                await ctx.wait_signal("never")
            except RunCancelled as error:
                told.append(f"{type(error).__name__} heard")
                await ctx.wait_signal("cleaned")
                raise

        await ctx.race(careful(), ctx.sleep(600))

    async with service.working(workflows=[race], activities=[]):
        handle = await service.client.start_run(race)
        await until(lambda: service.server.count(handle.run_id, "WaitStarted"), lambda count: count == 1)
        await handle.cancel("enough")
        await until(lambda: service.server.count(handle.run_id, "WaitStarted"), lambda count: count == 2)
    async with service.working(workflows=[race], activities=[]):
        await handle.signal("cleaned")
        with pytest.raises(RunFailed) as caught:
            await asyncio.wait_for(handle.result(), 60)
    assert caught.value.phase == "CANCELLED"
    assert told == ["RunCancelled heard"] * 2
    assert "__race" not in [name for _, name, _, _ in await record(handle)]


async def test_a_child_that_loses_is_ended(service: Live) -> None:
    """By its parent-close policy, as with any child that nobody waits for."""

    @workflow
    async def slow(ctx: Context) -> None:
        await ctx.wait_signal("never")

    @workflow
    async def race(ctx: Context) -> Any:
        return (await ctx.race(ctx.child(slow, workflow_id="slow"), ctx.wait_signal("go"))).place

    async with service.working(workflows=[race, slow], activities=[]):
        handle = await service.client.start_run(race)
        await until(lambda: service.server.count(handle.run_id, "ChildStarted"), lambda count: count == 1)
        await handle.signal("go")
        assert await asyncio.wait_for(handle.result(), 60) == 1
        child: RunHandle[Any] = service.client.run(workflow_id="slow")
        with pytest.raises(RunFailed) as caught:
            await asyncio.wait_for(child.result(), 60)
    assert caught.value.phase == "TERMINATED"


async def test_a_condition_may_race(service: Live) -> None:
    """What an update changes is waited for with a time limit."""

    @workflow
    async def asked(ctx: Context) -> list[Any]:
        got: list[int] = []
        ctx.on_update("add", got.append)
        first = await ctx.race(ctx.wait_until(lambda: got), ctx.sleep(600))
        second = await ctx.race(ctx.wait_until(lambda: len(got) > 5), ctx.sleep(0.1))
        return [first.place, second.place, got]

    async with service.working(workflows=[asked], activities=[]):
        handle = await service.client.start_run(asked)
        await until(lambda: service.server.count(handle.run_id, "TimerStarted"), lambda count: count == 1)
        await handle.update("add", 7)
        assert await asyncio.wait_for(handle.result(), 60) == [0, 1, [7]]


async def test_a_race_whose_winner_failed_is_run_again_by_a_retry(service: Live) -> None:
    """The winner's failed step is done anew, against the same time limit, which is set anew."""
    broken = [True]

    @activity
    async def may_break() -> str:
        if broken[0]:
            raise ValueError("down")
        return "up"

    @workflow
    async def bounded(ctx: Context) -> str:
        noted = await ctx.activity(says, "noted")
        return noted + await ctx.timeout(ctx.activity(may_break, retry=RetryPolicy(maximum_attempts=1)), 600)

    async with service.working(workflows=[bounded], activities=[says, may_break]):
        handle = await service.client.start_run(bounded)
        with pytest.raises(RunFailed):
            await asyncio.wait_for(handle.result(), 60)
        broken[0] = False
        removed = await handle.retry()
        assert [(step.scope, step.name) for step in removed.removed] == [
            ("1", "may_break"),
            ("2", "timeout"),
            ("", "__race"),
            ("2", "__lost"),
        ]
        assert await asyncio.wait_for(handle.result(), 60) == "notedup"
    assert told == ["said noted"]


async def test_what_is_no_race_is_refused(service: Live) -> None:
    """A race without branches."""

    @workflow
    async def none(ctx: Context) -> None:
        await ctx.race()

    async with service.working(workflows=[none], activities=[]):
        handle = await service.client.start_run(none)
        with pytest.raises(RunFailed, match="branches"):
            await asyncio.wait_for(handle.result(), 60)
