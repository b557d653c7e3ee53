"""A parent hears how its child ended, also when somebody else ended it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.ends.conftest import Working
from tests.mending.kit import QUEUE, described
from tests.stream.kit import until

from stepwell import ChildFailed, Client, Context, workflow
from stepwell.v1.types_pb2 import RUN_PHASE_SUSPENDED


@workflow(name="waiting")
async def waiting(ctx: Context) -> Any:
    return await ctx.wait_signal("never")


@workflow(name="parent")
async def parent(ctx: Context) -> str:
    try:
        return str(await ctx.child(waiting))
    except ChildFailed as error:
        return f"told: {error.step_name}"


async def children(client: Client, run_id: str) -> list[str]:
    return [run.run_id async for run in client.list_runs(parent_run_id=run_id)]


@pytest.mark.parametrize("verb", ["cancel", "terminate"])
async def test_a_parent_is_told_of_a_child_that_somebody_else_ended(
    client: Client, working: Working, verb: str
) -> None:
    handle = await client.start_run(parent, task_queue=QUEUE)
    async with working(parent, waiting):
        (child,) = await until(lambda: children(client, handle.run_id), bool)
        await described(client.run(child), lambda run: run.phase == RUN_PHASE_SUSPENDED)
        assert await getattr(client.run(child), verb)("enough")
        async with asyncio.timeout(60):
            assert await handle.result() == "told: waiting"
