"""Runs that are taken back to before a step: exactly that and what came after it is done anew."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from tests.mending.conftest import Working
from tests.mending.kit import QUEUE, happened, recorded, stepwell
from tests.stream.kit import until

from stepwell import Client, Context, activity, errors, reasons, workflow
from stepwell.v1 import repairs_pb2

done: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    done.clear()


def note(name: str) -> str:
    done[name] += 1
    return name


@activity
async def slow(name: str) -> str:
    done[name] += 1
    await asyncio.sleep(60)
    return name


@workflow(name="flow")
async def flow(ctx: Context) -> Any:
    names = [await ctx.step(name, note, name) for name in "abc"]
    said = [await ctx.wait_signal("go"), await ctx.wait_signal("go")]
    return [*names, *said, await ctx.step("d", note, "d")]


@workflow
async def child(ctx: Context) -> Any:
    await ctx.wait_signal("never")


@workflow(name="wide")
async def wide(ctx: Context) -> Any:
    await ctx.step("first", note, "first")
    await ctx.gather(ctx.activity(slow, "x"), ctx.child(child), ctx.step("in branch", note, "in branch"))


async def test_exactly_the_steps_from_there_on_are_done_anew(client: Client, working: Working) -> None:
    """Of an ended run: what it had taken of its signals after that it takes again, in the same order."""
    handle = await client.start_run(flow, task_queue=QUEUE)
    for value in (1, 2):
        await handle.signal("go", value)
    async with working(flow):
        assert await handle.result() == ["a", "b", "c", 1, 2, "d"]
        response = await handle.rewind("c", reason="again")
        assert [step.name for step in response.removed] == ["c", "go", "go", "d"]
        assert await handle.result() == ["a", "b", "c", 1, 2, "d"]
        assert done == {"a": 1, "b": 1, "c": 2, "d": 2}
        printed = await stepwell(client, "run", "rewind", handle.run_id, "go", "--occurrence", "1", "-o", "json")
        assert json.loads(printed)["removed_count"] == 2
        assert await client.run(handle.run_id).result() == ["a", "b", "c", 1, 2, "d"]
    assert done == {"a": 1, "b": 1, "c": 2, "d": 3}
    assert (await happened(handle)).count("RunRewound") == 2


async def test_an_open_run_leaves_its_worker_and_stops_its_activities(client: Client, working: Working) -> None:
    """The activity under way is cancelled, its worker told; the child ends by its policy; the code runs from there."""
    handle = await client.start_run(wide, task_queue=QUEUE)
    async with working(wide, child, activities=[slow]):
        await until(lambda: recorded(handle), lambda steps: ("1", "slow", "RUNNING") in steps and len(steps) == 4)
        steps = [step async for step in handle.steps()]
        (first_child,) = [step.child_run_id for step in steps if step.child_run_id]
        ordinal = min(step.ordinal for step in steps if step.scope)
        await handle.rewind(ordinal)
        assert (await client.run(first_child).describe()).run_id == first_child
        await until(lambda: done["x"] == done["in branch"] == 2)
        with pytest.raises(errors.RunFailed):
            await client.run(first_child).result()
        assert done["first"] == 1
        await handle.terminate()


async def test_a_step_that_is_not_there_is_refused(client: Client) -> None:
    """By number or by name; a request that names none, or two ways at once, is wrong."""
    handle = await client.start_run(flow, task_queue=QUEUE)
    for step in (1, "a"):
        with pytest.raises(reasons.StepNotFound):
            await handle.rewind(step)
    for wrong in (
        repairs_pb2.StepName(),
        repairs_pb2.StepName(ordinal=1, name="a"),
        repairs_pb2.StepName(ordinal=-1),
        repairs_pb2.StepName(name="a\0"),
        repairs_pb2.StepName(name="a", scope="x"),
        repairs_pb2.StepName(name="a", occurrence=1, key="k"),
    ):
        request = repairs_pb2.RewindRunRequest(run_id=handle.run_id, step=wrong)
        with pytest.raises(errors.InvalidArgument):
            await client.caller.call(client.run_stub.RewindRun, request)
