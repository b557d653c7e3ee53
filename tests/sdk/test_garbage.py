"""What a worker held of runs and activities is gone when they have ended, and not at the next garbage collection."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
from tests.sdk.fake_service import FakeService

from stepwell import Client, Context, activity, workflow
from stepwell._activities import Running
from stepwell._runs import RunExecution

Working = Callable[..., Any]


@activity
async def double(number: int) -> int:
    return 2 * number


@workflow
async def doubled(ctx: Context, number: int) -> list[int]:
    first = await ctx.activity(double, number)
    return [first, *await ctx.gather(ctx.activity(double, first), ctx.step("again", double, first))]


@workflow
async def told(ctx: Context) -> None:
    kept.append(ctx)


kept: list[Context] = []


def held() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, (RunExecution, Running))]


async def test_ended_runs_and_activities_are_gone(service: FakeService, client: Client, working: Working) -> None:
    """Counted with the collector off, once the worker has left and so has heard all answers."""
    gc.collect()
    gc.disable()
    try:
        before = len(held())
        async with working(workflows=[doubled], activities=[double]), asyncio.timeout(60):
            runs = [await client.start_run(doubled, number) for number in range(5)]
            assert [await run.result() for run in runs] == [[2 * n, 4 * n, 4 * n] for n in range(5)]
        assert len(held()) == before
    finally:
        gc.enable()


async def test_an_ended_run_publishes_no_more(service: FakeService, client: Client, working: Working) -> None:
    """Nobody would hear of it."""
    kept.clear()
    async with working(workflows=[told]), asyncio.timeout(60):
        await (await client.start_run(told)).result()
    with pytest.raises(RuntimeError, match="has ended"):
        kept[0].publish("state", "late")
    assert not kept[0].is_cancelled
