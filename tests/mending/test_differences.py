"""Code that changed under a run: found, shown with both sides, and gone on with once it fits."""

from __future__ import annotations

from typing import Any

from tests.mending.conftest import Working
from tests.mending.kit import QUEUE, ended, paused, stepwell, suspended

from stepwell import Client, Context, workflow
from stepwell.v1 import types_pb2

LOCAL = types_pb2.STEP_KIND_LOCAL


@workflow(name="flow")
async def first(ctx: Context) -> Any:
    for name in "abc":
        await ctx.step(name, str)
    await ctx.gather(*(ctx.step(f"in {name}", str) for name in "xy"))
    await ctx.wait_signal("go")
    return "done"


@workflow(name="flow")
async def renamed(ctx: Context) -> Any:
    for name in ("a", "B", "c"):
        await ctx.step(name, str)
    await ctx.wait_signal("go")


@workflow(name="flow")
async def turned(ctx: Context) -> Any:
    for name in ("a", "c", "b"):
        await ctx.step(name, str)
    await ctx.step("d", str)


@workflow(name="flow")
async def lacking(ctx: Context) -> Any:
    for name in "abc":
        await ctx.step(name, str)
    await ctx.wait_signal("go")
    return "done"


async def parked(client: Client, working: Working) -> Any:
    """A run of the first code that waits, and that nobody holds."""
    handle = await client.start_run(first, task_queue=QUEUE)
    async with working(first):
        await suspended(handle)
    return handle


async def test_a_renamed_step_is_shown_with_both_sides(client: Client, working: Working) -> None:
    """The run is paused, and says which call differs: for programs, and for people at the command."""
    handle = await parked(client, working)
    async with working(renamed):
        run = await paused(handle)
    (found,) = run.pause.differences
    assert (run.pause.reason, found.scope, found.agreeing, found.recorded_count) == ("ORDER_CHANGED", "", 1, 4)
    assert [(call.place, call.name) for call in found.recorded] == [(0, "a"), (1, "b"), (2, "c"), (3, "go")]
    assert [(call.kind, call.name) for call in found.made] == [(LOCAL, "B")]
    shown = await stepwell(client, "run", "show", handle.run_id)
    (line,) = (line for line in shown.splitlines() if ">     1" in line)
    assert line.split()[-4:] == ["LOCAL", "b", "LOCAL", "B"]
    await handle.resume(accept_order=True)
    async with working(first):
        await handle.signal("go")
        assert await handle.result() == "done"


async def test_calls_in_another_order_are_told_by_the_worker(client: Client, working: Working) -> None:
    """All of them are recorded, so that the hash alone would not show where they differ."""
    handle = await parked(client, working)
    async with working(turned):
        run = await paused(handle)
    (found,) = run.pause.differences
    assert found.agreeing == 1
    assert [call.name for call in found.made] == ["c", "b", "d"]


async def test_branches_that_are_gone_are_found_at_the_end(client: Client, working: Working) -> None:
    """Nothing in the code's own line tells of them, and yet the run does not complete."""
    handle = await parked(client, working)
    await handle.signal("go")
    async with working(lacking):
        run = await paused(handle)
    assert [(found.scope, found.agreeing, len(found.made)) for found in run.pause.differences] == [
        ("1", 0, 0),
        ("2", 0, 0),
    ]
    assert [call.name for found in run.pause.differences for call in found.recorded] == ["in x", "in y"]
    await handle.resume(accept_order=True)
    async with working(first):
        assert (await ended(handle)).phase == types_pb2.RUN_PHASE_COMPLETED
