"""Code that runs again over its record: what answers it, and what does not get past the service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.sdk.fake_service import FakeService

from stepwell import Client, Context, RunFailed, activity, workflow
from stepwell.v1 import types_pb2

Working = Callable[..., Any]
calls: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    calls.clear()


@activity
async def double(number: int) -> int:
    calls.append(f"double {number}")
    return 2 * number


def note(text: str) -> str:
    calls.append(text)
    return text


async def test_a_replay_answers_from_the_record(service: FakeService, client: Client, working: Working) -> None:
    """After an eviction the code runs again from the top, and no function a second time."""

    @workflow
    async def long(ctx: Context) -> list[Any]:
        first = await ctx.step("first", note, "first")
        both = await ctx.gather(ctx.step("left", note, "left"), ctx.step("right", note, "right"))
        token = ctx.side_effect("token", lambda: len(calls))
        doubled = await ctx.activity(double, 21)
        told = await ctx.wait_signal("go")
        return [first, both, token, doubled, told, await ctx.step("last", note, "last")]

    async with working(workflows=[long], activities=[double]):
        handle = await client.start_run(long)
        run = service.runs[handle.run_id]
        await service.until(lambda: any(record.kind == types_pb2.STEP_KIND_WAIT for record in run.steps))
        service.evict(handle.run_id)
        await service.until(lambda: run.token == 2)
        await handle.signal("go", "now")
        assert await handle.result() == ["first", ["left", "right"], 3, 42, "now", "last"]
    assert sorted(calls) == ["double 21", "first", "last", "left", "right"]
    assert run.token == 2


async def test_a_changed_order_is_refused(service: FakeService, client: Client, working: Working) -> None:
    """Code that calls another step first does not get past the service."""
    is_changed = False

    @workflow
    async def changing(ctx: Context) -> None:
        if is_changed:
            await ctx.step("new", note, "new")
        await ctx.step("old", note, "old")
        await ctx.wait_signal("go")

    async with working(workflows=[changing]):
        handle = await client.start_run(changing)
        run = service.runs[handle.run_id]
        await service.until(lambda: len(run.steps) == 2)
        is_changed = True
        service.evict(handle.run_id)
        await service.until(lambda: run.token == 2 and run.holder is None)
    assert [record.name for record in run.steps] == ["old", "go"]


async def test_another_kind_is_refused(service: FakeService, client: Client, working: Working) -> None:
    """A name that was an activity and is now a timer does not get past the service either."""
    is_changed = False

    @workflow
    async def changing(ctx: Context) -> None:
        if is_changed:
            await ctx.sleep(0, name="double")
        else:
            await ctx.activity(double, 1)
        await ctx.wait_signal("go")

    async with working(workflows=[changing], activities=[double]):
        handle = await client.start_run(changing)
        run = service.runs[handle.run_id]
        await service.until(lambda: len(run.steps) == 2)
        is_changed = True
        service.evict(handle.run_id)
        await service.until(lambda: run.token == 2 and run.holder is None)


async def test_a_patch_leaves_runs_that_are_past_it(service: FakeService, client: Client, working: Working) -> None:
    """A run that had gone by takes the old way, also at later asks; a new one takes the new way."""
    is_patched = False

    @workflow
    async def patching(ctx: Context) -> list[bool]:
        ways = [is_patched and ctx.patched("quick")]
        await ctx.step("work", note, "work")
        await ctx.wait_signal("go")
        return [*ways, is_patched and ctx.patched("quick")]

    async with working(workflows=[patching]):
        old = await client.start_run(patching)
        run = service.runs[old.run_id]
        await service.until(lambda: len(run.steps) == 2)
        is_patched = True
        service.evict(old.run_id)
        await service.until(lambda: run.token == 2)
        new = await client.start_run(patching)
        await asyncio.gather(old.signal("go"), new.signal("go"))
        assert await old.result() == [False, False]
        assert await new.result() == [True, True]


async def test_parallel_calls_need_branches(service: FakeService, client: Client, working: Working) -> None:
    """Two calls at once in one branch have no order: they are refused, with what to do."""

    @workflow
    async def careless(ctx: Context) -> None:
        await asyncio.gather(ctx.activity(double, 1), ctx.activity(double, 2))

    async with working(workflows=[careless], activities=[double]):
        with pytest.raises(RunFailed, match=r"use ctx\.gather"):
            await (await client.start_run(careless)).result()
