"""Open steps settled by hand: the code gets what was decided, and whoever was at it is not heard any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from tests.sdk.live import Live, live
from tests.sdk.test_cli_live import stepwell

from stepwell import Context, RetryPolicy, activity, errors, reasons, workflow
from stepwell.sync import Client as SyncClient
from stepwell.v1 import repairs_pb2

ENTERED: asyncio.Queue[int] = asyncio.Queue()
STUCK: asyncio.Event = asyncio.Event()


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Live]:
    global ENTERED, STUCK
    ENTERED, STUCK = asyncio.Queue(), asyncio.Event()
    async with live(database_url) as made:
        yield made


@activity
async def stuck(item: int) -> str:
    """Stays, and then says what nobody wants to hear any more."""
    ENTERED.put_nowait(activity.info().attempt)
    await STUCK.wait()
    return "too late"


@activity(retry=RetryPolicy(initial_interval=3600))
async def unlucky() -> str:
    attempt = activity.info().attempt
    ENTERED.put_nowait(attempt)
    if attempt == 1:
        raise ValueError("not today")
    return "lucky"


@workflow
async def child(ctx: Context) -> str:
    return str(await ctx.wait_signal("end"))


@workflow
async def waits(ctx: Context) -> list[Any]:
    found: list[Any] = [await ctx.wait_signal("paid")]
    await ctx.sleep(3600)
    found += [await ctx.activity(stuck, 1), await ctx.child(child, task_queue="held")]
    found.append(await ctx.user_task("review"))
    return found


@workflow
async def caught(ctx: Context) -> str:
    try:
        await ctx.activity(stuck, 1)
    except errors.ActivityFailed as error:
        return str(error.failure.message if error.failure else "")
    return "not caught"


@workflow
async def tries(ctx: Context) -> str:
    return await ctx.activity(unlucky)


async def until_open(handle: Any, ordinal: int) -> Any:
    async with asyncio.timeout(60):
        while True:
            found = [step async for step in handle.steps(states=["pending", "running", "waiting"])]
            if found and found[-1].ordinal == ordinal:
                return found[-1]
            await asyncio.sleep(0.02)


async def events(handle: Any) -> list[tuple[str, int, str]]:
    found = [event async for event in handle.history()]
    return [(each.type, each.step_ordinal, each.attributes["reason"]) for each in found if each.attributes["settled"]]


async def test_each_kind_of_step_is_settled_and_the_code_goes_on(one: Live) -> None:
    handle = await one.client.start_run(waits, task_queue="default")
    async with one.working(workflows=[waits], activities=[stuck]):
        await until_open(handle, 1)
        await handle.complete_step("paid", {"by": "hand"}, reason="lost in the post")
        await until_open(handle, 2)
        await handle.skip_step(2)
        await until_open(handle, 3)
        await ENTERED.get()
        await handle.complete_step(3, "by hand")
        of_child = await until_open(handle, 4)
        await handle.skip_step(4, reason="not needed")
        await until_open(handle, 5)
        await handle.complete_step("review", "fine")
        STUCK.set()
        async with asyncio.timeout(60):
            assert await handle.result() == [{"by": "hand"}, "by hand", None, "fine"]
    assert await events(handle) == [
        ("StepCompleted", 1, "lost in the post"),
        ("StepSkipped", 2, ""),
        ("StepCompleted", 3, ""),
        ("StepSkipped", 4, "not needed"),
        ("StepCompleted", 5, ""),
    ]
    # The child goes on by itself.
    assert (await one.client.run(of_child.child_run_id).describe()).phase == 1


async def test_a_late_report_changes_nothing(one: Live) -> None:
    handle = await one.client.start_run(waits, task_queue="default")
    async with one.working(workflows=[waits], activities=[stuck]):
        await until_open(handle, 1)
        await handle.complete_step(1)
        await until_open(handle, 2)
        await handle.skip_step(2)
        await ENTERED.get()
        await until_open(handle, 3)
        await handle.complete_step(3, "by hand")
        STUCK.set()
        await until_open(handle, 4)
    (step,) = [step async for step in handle.steps() if step.ordinal == 3]
    assert step.result.json == '"by hand"'
    assert "ActivityCompleted" not in [event.type async for event in handle.history()]


async def test_a_failure_by_hand_is_the_codes_to_catch(one: Live) -> None:
    handle = await one.client.start_run(caught, task_queue="default")
    async with one.working(workflows=[caught], activities=[stuck]):
        await ENTERED.get()
        await handle.fail_step(1, "the shop has closed")
        STUCK.set()
        async with asyncio.timeout(60):
            assert await handle.result() == "the shop has closed"


async def test_an_activity_is_tried_again_at_once(one: Live) -> None:
    handle = await one.client.start_run(tries, task_queue="default")
    async with one.working(workflows=[tries], activities=[unlucky]):
        assert await ENTERED.get() == 1
        async with asyncio.timeout(60):
            while not (await until_open(handle, 1)).failure.message:  # noqa: ASYNC110 - the run is remote
                await asyncio.sleep(0.02)
        assert await handle.retry_step(1, reason="the shop is open")
        assert await ENTERED.get() == 2
        async with asyncio.timeout(60):
            assert await handle.result() == "lucky"
    assert await events(handle) == [("ActivityRequeued", 1, "the shop is open")]


async def test_one_that_somebody_is_at_is_taken_from_there(one: Live) -> None:
    handle = await one.client.start_run(caught, task_queue="default")
    async with one.working(workflows=[caught], activities=[stuck]):
        assert await ENTERED.get() == 1
        assert await handle.retry_step(1)
        assert await ENTERED.get() == 2
        STUCK.set()
        async with asyncio.timeout(60):
            assert await handle.result() == "not caught"


async def test_what_cannot_be_settled_is_refused(one: Live) -> None:
    handle = await one.client.start_run(waits, task_queue="default")
    async with one.working(workflows=[waits], activities=[stuck]):
        await until_open(handle, 1)
        with pytest.raises(reasons.StepNotFound):
            await handle.skip_step(9)
        with pytest.raises(reasons.StepStateConflict, match="a wait"):
            await handle.retry_step(1)
        await handle.skip_step(1)
        with pytest.raises(reasons.StepStateConflict, match="SKIPPED"):
            await handle.skip_step(1)
        await until_open(handle, 2)
        with pytest.raises(reasons.StepStateConflict, match="a timer"):
            await handle.fail_step(2, "no")
        await handle.terminate()
        with pytest.raises(reasons.RunTerminal):
            await handle.skip_step(2)
    queued = await one.client.start_run(tries, task_queue="default")
    async with one.working(workflows=[tries], activities=[]):
        await until_open(queued, 1)
        assert not await queued.retry_step(1)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"skip": repairs_pb2.SettleRunStepRequest.Skip()}, "step.ordinal"),
        ({"step": repairs_pb2.StepName(ordinal=1)}, "outcome"),
        ({"step": repairs_pb2.StepName(ordinal=1), "fail": repairs_pb2.SettleRunStepRequest.Fail()}, "failure.message"),
    ],
)
async def test_bad_input(one: Live, fields: dict[str, Any], named: str) -> None:
    handle = await one.client.start_run(waits, task_queue="held")
    with pytest.raises(grpc.aio.AioRpcError, match=named) as refused:
        await one.client.run_stub.SettleRunStep(repairs_pb2.SettleRunStepRequest(run_id=handle.run_id, **fields))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_the_command_and_programs_without_asyncio(one: Live) -> None:
    handle = await one.client.start_run(waits, workflow_id="w", task_queue="default")
    async with one.working(workflows=[waits], activities=[stuck]):
        await until_open(handle, 1)
        code, out, _ = await stepwell(one.server, "run", "step", "complete", "w", "paid", "--input", "7")
        assert (code, out.strip()) == (0, "step paid is COMPLETED")
        await until_open(handle, 2)
        code, _, err = await stepwell(one.server, "run", "step", "fail", "w", "2", "no")
        assert (code, "a timer" in err) == (1, True)

        def work() -> None:
            with SyncClient.connect(one.server.service.address) as client:
                client.run(workflow_id="w").skip_step(2)

        await asyncio.to_thread(work)
        await until_open(handle, 3)
