"""What the stores' own engines ask of orchestration, by code of ours: assay's D3 and D4, stem's I2 and I3, by name."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.sdk.live import Live, live
from tests.stream.kit import until

from stepwell import (
    ApplicationError,
    Client,
    Context,
    RetryPolicy,
    RunCancelled,
    RunFailed,
    RunHandle,
    WaitTimeout,
    Worker,
    activity,
    reasons,
    workflow,
)
from stepwell.runs import phase_name

DONE: Counter[str] = Counter()
ONCE = RetryPolicy(maximum_attempts=1)


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Live]:
    DONE.clear()
    # However slow the machine is, what a worker has stays its own: what is done is counted.
    async with live(database_url, session_seconds=600.0, ack_seconds=300.0) as made:
        yield made


@activity(retry=ONCE)
async def double(number: int) -> int:
    DONE["double"] += 1
    if number < 0 and DONE["double"] < 2:
        raise ApplicationError(f"no {number}")
    return 2 * number


async def result(handle: RunHandle[Any]) -> Any:
    async with asyncio.timeout(60):
        return await handle.result()


async def happened(handle: RunHandle[Any]) -> list[str]:
    return [event.type async for event in handle.history()]


async def suspended(handle: RunHandle[Any]) -> None:
    await until(handle.describe, lambda run: phase_name(run.phase) == "SUSPENDED")


async def started(one: Live, code: Any, *given: Any, **options: Any) -> RunHandle[Any]:
    return await one.client.start_run(code, *given, **{"task_queue": "default", **options})


@workflow
async def in_turn(ctx: Context, number: int) -> int:
    return await ctx.activity(double, await ctx.activity(double, number))


async def test_workflow_runs_to_completion(one: Live) -> None:
    async with one.working(workflows=[in_turn], activities=[double]):
        handle = await started(one, in_turn, 3)
        assert await result(handle) == 12
    run = await handle.describe()
    assert (phase_name(run.phase), run.result.json) == ("COMPLETED", "12")


async def test_workflow_with_signal_first_and_timer_first(one: Live) -> None:
    @workflow
    async def waits(ctx: Context, seconds: float) -> list[Any]:
        try:
            return [await ctx.wait_signal("go", timeout=seconds), False]
        except WaitTimeout:
            return [None, True]

    async with one.working(workflows=[waits]):
        signalled = await started(one, waits, 600)
        await suspended(signalled)
        await signalled.signal("go", {"a": 1})
        assert await result(signalled) == [{"a": 1}, False]
        assert await result(await started(one, waits, 0.01)) == [None, True]


async def test_ctx_cancel_lands_in_cancelled_status(one: Live) -> None:
    """Code that gives its own run up raises what a cancellation raises."""

    @workflow
    async def gives_up(ctx: Context) -> None:
        await ctx.activity(double, 1)
        raise RunCancelled("enough")

    async with one.working(workflows=[gives_up], activities=[double]):
        handle = await started(one, gives_up)
        with pytest.raises(RunFailed):
            await result(handle)
    assert phase_name((await handle.describe()).phase) == "CANCELLED"


async def test_workflow_namespace_scoping_end_to_end(one: Live) -> None:
    await one.client.create_namespace("other")
    async with (
        one.working(workflows=[in_turn], activities=[double]),
        await Client.connect(one.server.service.address, namespace="other") as client,
    ):
        handle = await client.start_run(in_turn, 3, task_queue="default")
        beside = await started(one, in_turn, 1)
        assert await result(beside) == 4
        assert phase_name((await handle.describe()).phase) == "PENDING"
        worker = Worker(client, "default", workflows=[in_turn], activities=[double], drain_seconds=1)
        working = asyncio.create_task(worker.run())
        assert await result(handle) == 12
        worker.shutdown()
        await working
        assert (await handle.describe()).namespace == "other"


async def test_side_effect_and_steps_of_one_name_are_recorded_once(one: Live) -> None:
    """Stem's autoVersion: each turn of a loop has its own, however often the code is run again."""

    def turn(number: int) -> int:
        DONE["turn"] += 1
        return number

    @workflow
    async def loops(ctx: Context) -> list[Any]:
        DONE["replay"] += 1
        token = ctx.side_effect("token", lambda: DONE["replay"])
        found: list[Any] = []
        for number in range(3):
            found.append(await ctx.step("repeat", turn, number))
            await ctx.wait_signal("go")
        return [token, found]

    handle = await started(one, loops)
    for place in range(3):
        # The next worker has nothing in its memory.
        async with one.working(workflows=[loops]):
            await until(lambda: DONE["turn"] == place + 1)  # noqa: B023 - it is looked at in this turn
            await suspended(handle)
        await handle.signal("go")
    async with one.working(workflows=[loops]):
        assert await result(handle) == [1, [0, 1, 2]]
    assert DONE["turn"] == 3
    assert DONE["replay"] >= 4
    steps = [(step.name, step.occurrence) async for step in handle.steps() if step.name == "repeat"]
    assert steps == [("repeat", 0), ("repeat", 1), ("repeat", 2)]


async def test_child_workflow_completes_before_parent(one: Live) -> None:
    @workflow
    async def parent(ctx: Context) -> int:
        return await ctx.child(in_turn, 10)

    async with one.working(workflows=[parent, in_turn], activities=[double]):
        handle = await started(one, parent)
        assert await result(handle) == 40
    (step,) = [each async for each in handle.steps()]
    child = await one.client.run(step.child_run_id).describe()
    assert (phase_name(child.phase), child.parent_run_id) == ("COMPLETED", handle.run_id)
    assert child.end_time.ToNanoseconds() <= (await handle.describe()).end_time.ToNanoseconds()


async def test_workflow_cancellation_stops_work(one: Live) -> None:
    @workflow
    async def sleeps(ctx: Context) -> None:
        await ctx.sleep(3600)
        await ctx.activity(double, 1)

    async with one.working(workflows=[sleeps], activities=[double]):
        handle = await started(one, sleeps)
        await suspended(handle)
        await handle.cancel("enough")
        with pytest.raises(RunFailed):
            await result(handle)
    assert phase_name((await handle.describe()).phase) == "CANCELLED"
    events = await happened(handle)
    assert ("ActivityScheduled" in events, "RunCancelRequested" in events, events[-1]) == (False, True, "RunCancelled")


async def test_workflow_with_durable_timer(one: Live) -> None:
    """And stem's "sleep then event": the event that was kept is taken after it."""

    @workflow
    async def sleeps(ctx: Context) -> str:
        await ctx.sleep(0.2)
        return str(await ctx.wait_topic("paid"))

    await one.client.topics.publish("paid", "in time", retain=600)
    async with one.working(workflows=[sleeps]):
        handle = await started(one, sleeps)
        assert await result(handle) == "in time"
    events = [event async for event in handle.history() if event.type in {"TimerStarted", "TimerFired"}]
    assert [event.type for event in events] == ["TimerStarted", "TimerFired"]
    assert events[1].time.ToNanoseconds() - events[0].time.ToNanoseconds() >= 200_000_000


async def test_continue_as_new_starts_fresh_run(one: Live) -> None:
    @workflow
    async def counts(ctx: Context, number: int) -> int:
        if number < 2:
            ctx.continue_as_new(number + 1)
        return number

    async with one.working(workflows=[counts]):
        handle = await started(one, counts, 1, workflow_id="w")
        assert await result(handle) == 2
    first = await one.client.run(handle.run_id).describe()
    second = await one.client.run(first.continued_run_id).describe()
    assert (phase_name(first.phase), second.input.json, second.workflow_id) == ("COMPLETED", "2", "w")


async def test_execute_parallel_three_activities_and_one_fails(one: Live) -> None:
    @workflow
    async def three(ctx: Context, first: int) -> int:
        return sum(await ctx.gather(*(ctx.activity(double, number) for number in (first, 2, 3))))

    async with one.working(workflows=[three], activities=[double]):
        DONE["double"] = 10
        handle = await started(one, three, 1)
        assert await result(handle) == 12
        events = [name for name in await happened(handle) if name in {"ActivityScheduled", "ActivityCompleted"}]
        assert events[:3] == ["ActivityScheduled"] * 3
        DONE["double"] = -10
        with pytest.raises(RunFailed, match="no -7") as caught:
            await result(await started(one, three, -7))
    assert caught.value.phase == "FAILED"


async def test_concurrent_retry_requests_schedule_the_failed_activity_once(one: Live) -> None:
    """Of many that retry a run at once, one does; the others hear that it is open."""
    async with one.working(workflows=[in_turn], activities=[double]):
        handle = await started(one, in_turn, -7)
        with pytest.raises(RunFailed):
            await result(handle)
    answers = await asyncio.gather(*(handle.retry() for _ in range(8)), return_exceptions=True)
    refused = [each for each in answers if isinstance(each, BaseException)]
    assert (len(refused), {type(each) for each in refused}) == (7, {reasons.RunPhaseConflict})
    async with one.working(workflows=[in_turn], activities=[double]):
        assert await result(handle) == -28
    assert DONE["double"] == 3
    assert (await happened(handle)).count("RunRetried") == 1
