"""Code runs: what is recorded, what a replay answers, and what goes out together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from tests.sdk.fake_records import refusal
from tests.sdk.fake_service import FakeService

from stepwell import (
    ActivityFailed,
    ApplicationError,
    Client,
    Context,
    RetryPolicy,
    RunCancelled,
    RunFailed,
    StepFailed,
    WaitTimeout,
    activity,
    workflow,
)
from stepwell.v1 import types_pb2

Working = Callable[..., Any]
calls: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    calls.clear()


@dataclass
class Order:
    name: str
    count: int


@activity
async def double(number: int) -> int:
    calls.append(f"double {number}")
    return 2 * number


@activity
def stamp(order: Order) -> Order:
    return Order(order.name.upper(), order.count + 1)


@activity(retry=RetryPolicy(maximum_attempts=2))
def broken(number: int) -> int:
    calls.append(f"broken {number}")
    raise ValueError(f"no {number}")


def note(text: str) -> str:
    calls.append(text)
    return text


async def test_values_keep_their_types(service: FakeService, client: Client, working: Working) -> None:
    """What the hints say comes out, on the way in, between steps and at the end."""

    @workflow
    async def typed(ctx: Context, order: Order) -> Order:
        assert isinstance(order, Order)
        stamped = await ctx.activity(stamp, order)
        assert isinstance(stamped, Order)
        return stamped

    async with working(workflows=[typed], activities=[stamp]):
        handle = await client.start_run(typed, Order("a", 1))
        assert await handle.result() == Order("A", 2)


async def test_the_new_steps_of_a_turn_travel_together(service: FakeService, client: Client, working: Working) -> None:
    """A fan-out is one Progress, which says that the run waits."""

    @workflow
    async def wide(ctx: Context) -> list[int]:
        return await ctx.map(double, range(100))

    async with working(workflows=[wide], activities=[double]):
        handle = await client.start_run(wide)
        assert await handle.result() == [2 * number for number in range(100)]
    first = service.runs[handle.run_id].progresses[0]
    assert len(first.steps) == 100
    assert first.waiting
    assert {step.scope for step in first.steps} == {str(number) for number in range(1, 101)}


async def test_branches_with_code_travel_together_too(service: FakeService, client: Client, working: Working) -> None:
    """Branches that are coroutines, and nested ones, reach their calls within one turn."""

    @workflow
    async def nested(ctx: Context) -> list[list[int]]:
        async def branch(number: int) -> list[int]:
            return await ctx.gather(*(ctx.activity(double, number + each) for each in range(3)))

        return await ctx.map(branch, range(4))

    async with working(workflows=[nested], activities=[double]):
        handle = await client.start_run(nested)
        assert await handle.result() == [[2 * (number + each) for each in range(3)] for number in range(4)]
    run = service.runs[handle.run_id]
    assert len(run.progresses[0].steps) == 12
    assert run.steps[0].scope == "1/1"


async def test_more_steps_than_a_message_holds(service: FakeService, client: Client, working: Working) -> None:
    """They go out in several Progress, and the order check passes each."""

    @workflow
    async def wider(ctx: Context) -> int:
        return sum(await ctx.map(double, range(600)))

    async with working(workflows=[wider], activities=[double]):
        handle = await client.start_run(wider)
        assert await handle.result() == sum(2 * number for number in range(600))
    sizes = [len(progress.steps) for progress in service.runs[handle.run_id].progresses if progress.steps]
    assert sizes == [256, 256, 88]
    assert [p.waiting for p in service.runs[handle.run_id].progresses[:3]] == [False, False, True]


async def test_a_limit_bounds_what_is_open(service: FakeService, client: Client, working: Working) -> None:
    """Branches keep the numbers of their places whenever they start."""

    @workflow
    async def bounded(ctx: Context) -> list[int]:
        return await ctx.map(double, range(20), limit=4)

    async with working(workflows=[bounded], activities=[double]):
        handle = await client.start_run(bounded)
        assert await handle.result() == [2 * number for number in range(20)]
    run = service.runs[handle.run_id]
    assert max(len(progress.steps) for progress in run.progresses) <= 4
    assert {record.scope for record in run.steps} == {str(number) for number in range(1, 21)}


async def test_a_checkpoint_is_recorded_before_the_code_goes_on(
    service: FakeService, client: Client, working: Working
) -> None:
    """Two checkpoints are two Progress, and the end a third."""

    @workflow
    async def two(ctx: Context) -> None:
        await ctx.step("one", note, "one")
        await ctx.step("two", note, "two")

    async with working(workflows=[two]):
        handle = await client.start_run(two)
        await handle.result()
    progresses = service.runs[handle.run_id].progresses
    assert [[step.name for step in progress.steps] for progress in progresses] == [["one"], ["two"], []]
    assert [progress.WhichOneof("end") for progress in progresses] == [None, None, "complete"]
    assert not any(progress.waiting for progress in progresses)


async def test_a_checkpoint_waits_for_the_side_effect_before_it(
    service: FakeService, client: Client, working: Working
) -> None:
    """Its function may act on a value that must be the same if it runs again."""
    seen: list[int] = []

    @workflow
    async def effect(ctx: Context) -> None:
        ctx.side_effect("token", lambda: 7)
        run = service.runs[ctx.info.run_id]
        await ctx.step("use", lambda: seen.append(len(run.steps)))

    async with working(workflows=[effect]):
        await (await client.start_run(effect)).result()
    assert seen == [1]


async def test_a_failed_checkpoint_is_recorded_too(service: FakeService, client: Client, working: Working) -> None:
    """The code sees the same error at once and on a replay; a retry in place comes before."""

    def fails() -> None:
        calls.append("fails")
        raise ApplicationError("no luck", type="Luck")

    @workflow
    async def guarded(ctx: Context) -> str:
        try:
            await ctx.step("try", fails, retry=RetryPolicy(initial_interval=0.001, maximum_attempts=3))
        except StepFailed as error:
            await ctx.wait_signal("go")
            return error.type
        return ""

    async with working(workflows=[guarded]):
        handle = await client.start_run(guarded)
        run = service.runs[handle.run_id]
        await service.until(lambda: len(run.steps) == 2)
        service.evict(handle.run_id)
        await handle.signal("go")
        assert await handle.result() == "Luck"
    assert calls == ["fails"] * 3


async def test_an_activity_that_fails_for_good(service: FakeService, client: Client, working: Working) -> None:
    """The failure names the exception; uncaught, it fails the run."""

    @workflow
    async def doomed(ctx: Context) -> None:
        await ctx.activity(broken, 3)

    async with working(workflows=[doomed], activities=[broken]):
        handle = await client.start_run(doomed)
        with pytest.raises(RunFailed, match="no 3") as caught:
            await handle.result()
    assert caught.value.phase == "FAILED"
    assert caught.value.failure is not None
    assert caught.value.failure.type == "ActivityFailed"
    assert calls == ["broken 3"] * 2


async def test_a_group_waits_for_all_and_raises_the_first(
    service: FakeService, client: Client, working: Working
) -> None:
    """What it comes to does not depend on which branch was faster."""

    @workflow
    async def mixed(ctx: Context) -> str:
        async def slow() -> None:
            await ctx.sleep(0.05)
            raise ValueError("slow")

        try:
            await ctx.gather(slow(), ctx.activity(broken, 1), ctx.step("done", note, "done"))
        except ValueError as error:
            return str(error)
        except ActivityFailed:
            return "activity"
        return ""

    async with working(workflows=[mixed], activities=[broken]):
        assert await (await client.start_run(mixed)).result() == "slow"
    assert "done" in calls


async def test_a_wait_tells_timeout_from_arrival(service: FakeService, client: Client, working: Working) -> None:
    """The timeout raises, the signal's value comes."""

    @workflow
    async def waits(ctx: Context) -> list[Any]:
        try:
            await ctx.wait_signal("never", timeout=0.01)
        except WaitTimeout as error:
            return [str(error), await ctx.wait_signal("early"), await ctx.wait_signal("early")]
        return []

    async with working(workflows=[waits]):
        handle = await client.start_run(waits)
        await asyncio.gather(handle.signal("early", 1), handle.signal("early", 2))
        assert await handle.result() == ["wait never timed out", 1, 2]


async def test_a_child_and_its_continuation(service: FakeService, client: Client, working: Working) -> None:
    """A child's result comes from the run that finally continued it; so does a waiting client's."""

    @workflow
    async def counts(ctx: Context, left: int) -> str:
        await ctx.step("once", note, f"left {left}")
        if left:
            ctx.continue_as_new(left - 1)
        return "done"

    @workflow
    async def parent(ctx: Context) -> str:
        return await ctx.child(counts, 2)

    async with working(workflows=[counts, parent]):
        assert await (await client.start_run(counts, 2)).result() == "done"
        assert await (await client.start_run(parent)).result() == "done"
    assert calls == ["left 2", "left 1", "left 0"] * 2


async def test_a_chain_that_the_watch_does_not_tell_of(service: FakeService, client: Client, working: Working) -> None:
    """A service may continue a run under an id of any ending: its end is asked for."""

    @workflow
    async def goes_on(ctx: Context, left: int) -> Any:
        if left:
            ctx.continue_as_new(left - 1)
        return await ctx.wait_signal("go")

    async with working(workflows=[goes_on]):
        result = asyncio.ensure_future((await client.start_run(goes_on, 1)).result())
        await service.until(lambda: service.calls["WaitRun"] == 1)
        *_, last = service.runs
        await client.run(last).signal("go", "well")
        assert await result == "well"


async def test_cancellation_with_clean_up(service: FakeService, client: Client, working: Working) -> None:
    """It is raised once in each branch, clean-up may call, and a replay raises at the same places."""

    @workflow
    async def careful(ctx: Context) -> None:
        async def branch(name: str) -> None:
            try:
                await ctx.wait_signal(name)
            except RunCancelled as error:
                await ctx.step("undo", note, f"undo {name} {error.reason}")
                raise

        try:
            await ctx.gather(branch("a"), branch("b"), ctx.wait_signal("c"))
        finally:
            await ctx.wait_signal("confirm", timeout=60)
            await ctx.step("after", note, "after")

    async with working(workflows=[careful]):
        handle = await client.start_run(careful)
        run = service.runs[handle.run_id]
        await service.until(lambda: len(run.steps) == 3)
        await handle.cancel("enough")
        await service.until(lambda: any(record.name == "confirm" for record in run.steps))
        service.evict(handle.run_id)
        await service.until(lambda: run.token == 2)
        await handle.signal("confirm")
        with pytest.raises(RunFailed) as caught:
            await handle.result()
    assert caught.value.phase == "CANCELLED"
    assert sorted(calls) == ["after", "undo a enough", "undo b enough"]
    cancelled = [record.name for record in run.steps if record.state == types_pb2.STEP_STATE_CANCELLED]
    assert sorted(cancelled) == ["a", "b", "c"]


async def test_cancellation_before_the_first_call(service: FakeService, client: Client, working: Working) -> None:
    """The first call that is not recorded raises it."""

    @workflow
    async def late(ctx: Context) -> None:
        await ctx.step("never", note, "never")

    handle = await client.start_run(late)
    await handle.cancel()
    async with working(workflows=[late]):
        with pytest.raises(RunFailed):
            await handle.result()
    assert calls == []


async def test_plain_steps_run_in_threads(service: FakeService, client: Client, working: Working) -> None:
    """They may block; async ones stay on the loop."""

    async def here() -> bool:
        return threading.current_thread() is threading.main_thread()

    @workflow
    async def places(ctx: Context) -> list[bool]:
        return [
            await ctx.step("thread", lambda: threading.current_thread() is threading.main_thread()),
            await ctx.step("loop", here),
        ]

    async with working(workflows=[places]):
        assert await (await client.start_run(places)).result() == [False, True]


async def test_a_progress_that_is_at_fault_fails_the_run(
    service: FakeService, client: Client, working: Working
) -> None:
    """What the service will never take is not sent for ever; what it could not take now is sent again."""

    @workflow
    async def simple(ctx: Context) -> str:
        return await ctx.step("one", note, "one")

    async with working(workflows=[simple]):
        service.refuse_next = [refusal(grpc.StatusCode.ABORTED, "RUN_BUSY", "busy")]
        assert await (await client.start_run(simple)).result() == "one"
        service.refuse_next = [refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "too large")]
        with pytest.raises(RunFailed, match="too large"):
            await (await client.start_run(simple)).result()
