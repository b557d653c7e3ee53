"""A fork begins with what another run had recorded before a step, does the rest anew, and leaves the other as it is."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from tests.sdk.live import Live, live
from tests.sdk.test_cli_live import stepwell

from stepwell import Context, RetryPolicy, activity, errors, reasons, workflow
from stepwell.sync import Client as SyncClient
from stepwell.sync import RunHandle as SyncRunHandle
from stepwell.v1 import repairs_pb2, run_store_pb2, run_store_pb2_grpc

DONE: Counter[str] = Counter()


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Live]:
    DONE.clear()
    # However slow the machine is, what a worker has stays its own: what is done is counted.
    async with live(database_url, session_seconds=600.0, ack_seconds=300.0) as made:
        yield made


def done(name: str) -> str:
    DONE[name] += 1
    return f"{name}{DONE[name]}"


@activity
async def act(name: str) -> str:
    return done(name)


@activity(retry=RetryPolicy(maximum_attempts=1))
async def never(name: str) -> None:
    done(name)
    raise ValueError("no")


@workflow
async def inner(ctx: Context, name: str) -> str:
    return await ctx.activity(act, name)


@workflow
async def line(ctx: Context) -> list[Any]:
    """Everything that may be recorded, in a line."""
    found: list[Any] = [await ctx.step("a", done, "a"), await ctx.activity(act, "b"), await ctx.child(inner, "c")]
    await ctx.sleep(0.01)
    try:
        await ctx.activity(never, "d", name="d")
    except errors.ActivityFailed:
        found.append("caught")
    found.append(await ctx.wait_signal("s"))
    found.append(await ctx.step("last", done, "last"))
    return found


@workflow
async def branches(ctx: Context) -> list[Any]:
    async def both(name: str) -> list[str]:
        return [await ctx.step("one", done, f"{name}.one"), await ctx.step("two", done, f"{name}.two")]

    found = await ctx.gather(both("x"), both("y"))
    return [*found, await ctx.step("sum", done, "sum")]


async def result(handle: Any) -> Any:
    async with asyncio.timeout(60):
        return await handle.result()


OPTIONS = {"workflows": [line, inner, branches], "activities": [act, never]}


def once(workflow_id: str) -> dict[str, Any]:
    return {"workflow_id": workflow_id, "task_queue": "default"}


async def test_what_was_done_before_the_step_is_not_done_again(one: Live) -> None:
    source = await one.client.start_run(line, **once("w"))
    async with one.working(**OPTIONS):
        await source.signal("s", "said")
        assert await result(source) == ["a1", "b1", "c1", "caught", "said", "last1"]
        before, history = await source.describe(), [event async for event in source.history()]
        fork: Any = one.client.run(await source.fork("last"))
        assert await result(fork) == ["a1", "b1", "c1", "caught", "said", "last2"]
    told = await fork.describe()
    assert (told.source_run_id, told.workflow_id, told.type) == (source.run_id, "", before.type)
    assert await source.describe() == before
    assert [event async for event in source.history()] == history
    copied = [event async for event in fork.history() if event.attributes["copied_from"]]
    assert [event.attributes["copied_from"] for event in copied] == [
        str(number) for number in range(1, len(copied) + 1)
    ]
    assert {event.attributes["kind"] for event in copied} >= {"LOCAL", "ACTIVITY", "CHILD", "TIMER", "WAIT"}
    assert Counter({"a": 1, "b": 1, "c": 1, "d": 1, "last": 2}) == DONE


async def test_an_open_run_is_forked_and_goes_on_itself(one: Live) -> None:
    source = await one.client.start_run(line, **once("w"))
    async with one.working(**OPTIONS):
        async for event in source.follow():
            if event.type == "WaitStarted":
                break
        fork: Any = one.client.run(await source.fork("act", workflow_id="fork of w"))
        await fork.signal("s", "to the fork")
        assert (await result(fork))[:2] == ["a1", "b2"]
        await source.signal("s", "to the source")
        assert (await result(source))[:2] == ["a1", "b1"]
        assert (await source.describe()).source_run_id == ""
    assert (await fork.describe()).workflow_id == "fork of w"


async def test_of_each_branch_a_beginning_stays(one: Live) -> None:
    source = await one.client.start_run(branches, **once("w"))
    async with one.working(**OPTIONS):
        assert await result(source) == [["x.one1", "x.two1"], ["y.one1", "y.two1"], "sum1"]
        steps = {(step.scope, step.name): step.ordinal async for step in source.steps()}
        fork: Any = one.client.run(await source.fork("two", scope="2"))
        found = await result(fork)
    # What was recorded after it in the other branch is done anew, too; what comes of both always.
    late = steps["1", "two"] > steps["2", "two"]
    assert found == [["x.one1", "x.two2" if late else "x.two1"], ["y.one1", "y.two2"], "sum2"]


async def test_a_fork_can_be_rewound_and_forked_again(one: Live) -> None:
    source = await one.client.start_run(branches, **once("w"))
    async with one.working(**OPTIONS):
        await result(source)
        fork: Any = one.client.run(await source.fork("sum"))
        assert (await result(fork))[2] == "sum2"
        await fork.rewind("sum")
        assert (await result(fork))[2] == "sum3"
        again: Any = one.client.run(await fork.fork("sum"))
        assert (await result(again))[:2] == [["x.one1", "x.two1"], ["y.one1", "y.two1"]]


async def test_a_repeat_makes_no_second_one(one: Live) -> None:
    source = await one.client.start_run(line, **once("w"))
    await source.signal("s")
    async with one.working(**OPTIONS):
        await result(source)
    request = repairs_pb2.ForkRunRequest(run_id=source.run_id, step=repairs_pb2.StepName(name="last"), request_id="r")
    first = await one.client.run_stub.ForkRun(request)
    again = await one.client.run_stub.ForkRun(request)
    assert (first.started, again.started, first.run_id) == (True, False, again.run_id)
    assert first.copied_count == 6
    request.step.name = "a"
    with pytest.raises(grpc.aio.AioRpcError, match="another"):
        await one.client.run_stub.ForkRun(request)


async def test_what_cannot_be_forked_is_refused(one: Live) -> None:
    source = await one.client.start_run(line, **once("w"))
    with pytest.raises(reasons.StepNotFound):
        await source.fork("a")
    async with one.working(**OPTIONS):
        async for event in source.follow():
            if event.type == "WaitStarted":
                break
        with pytest.raises(reasons.WorkflowIdInUse):
            await source.fork("act", workflow_id="w")
    store: Any = run_store_pb2_grpc.RunStoreStub(one.client._channel)
    driven = await store.CreateRun(run_store_pb2.CreateRunRequest(type="t"))
    with pytest.raises(reasons.RunDriven):
        await one.client.run(driven.run_id).fork(1)
    await one.client.create_namespace("elsewhere")
    request = repairs_pb2.ForkRunRequest(
        namespace="elsewhere", run_id=source.run_id, step=repairs_pb2.StepName(ordinal=1)
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await one.client.run_stub.ForkRun(request)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_the_command_and_programs_without_asyncio(one: Live) -> None:
    source = await one.client.start_run(branches, **once("w"))
    async with one.working(**OPTIONS):
        await result(source)
        code, out, _ = await stepwell(one.server, "run", "fork", "w", "sum", "--workflow-id", "again")
        assert (code, "goes on from before step sum" in out) == (0, True)
        assert (await result(one.client.run(workflow_id="again")))[2] == "sum2"

        def fork() -> str:
            with SyncClient.connect(one.server.service.address) as client:
                handle: SyncRunHandle[Any] = client.run(source.run_id)
                fork = handle.fork("sum", request_id="once")
                assert handle.fork("sum", request_id="once") == fork
                return fork

        assert (await result(one.client.run(await asyncio.to_thread(fork))))[2] == "sum3"
