"""Repairs of runs that were called from outside: an update begins again in the wait that it was in."""

from __future__ import annotations

from typing import Any

from tests.mending.conftest import Working
from tests.mending.kit import QUEUE, recorded, suspended
from tests.stream.kit import until

from stepwell import Client, Context, Skip, workflow


def release(*names: str) -> Any:
    """Steps, then a wait in which the run may be told of items, then what it saw of them after each wait."""

    @workflow(name="told")
    async def told(ctx: Context) -> Any:
        items: list[str] = []
        ctx.on_update("add", items.append)
        seen = []
        for name in names:
            await ctx.step(name, str)
            seen.append(len(items))
        for _ in range(2):
            await ctx.wait_signal("go")
            seen.append(len(items))
        return seen

    return told


async def test_an_update_is_where_it_was(client: Client, working: Working) -> None:
    """Steps before it are skipped, so the same wait is an earlier one now; the code sees the item no sooner."""
    before, after = release("a", "b", "c"), release("b")
    handle = await client.start_run(before, task_queue=QUEUE)
    async with working(before):
        await suspended(handle)
        await handle.signal("go")
        await until(lambda: recorded(handle), lambda steps: len(steps) == 5)
        await handle.update("add", "pen")
        await suspended(handle)
    await handle.pause()
    await handle.repair(Skip("a"), Skip("c"))
    await handle.resume()
    async with working(after):
        await handle.signal("go")
        assert await handle.result() == [0, 0, 1]
