"""The test kit: time is moved, sessions stay."""

from __future__ import annotations

import datetime as dt

from stepwell import ActivityFailed, Context, RetryPolicy, activity, workflow
from stepwell.testing import TestServer

QUEUE = "kit"


@activity
async def unwilling(name: str) -> str:
    """Fails twice."""
    if activity.info().attempt < 3:
        raise ValueError(name)
    return f"{name} at last"


@workflow
async def patient(ctx: Context, name: str) -> str:
    """Sleeps for a month, then tries something for a day."""
    await ctx.sleep(dt.timedelta(days=30))
    try:
        return await ctx.activity(unwilling, name, retry=RetryPolicy(initial_interval=6 * 3600, maximum_attempts=5))
    except ActivityFailed:
        return "never"


async def test_a_month_and_two_retries_take_no_time() -> None:
    """Timers and retries follow the moved clock, and the worker's session survives the move."""
    async with TestServer() as server:
        handle = await server.client.start_run(patient, "Ada", task_queue=QUEUE)
        async with server.worker(QUEUE, workflows=[patient], activities=[unwilling]):
            before = await server.now()
            await server.suspended(handle)
            await server.advance(dt.timedelta(days=30))
            events = 0
            while events < 2:
                await server.advance(dt.timedelta(hours=6))
                events = len([event async for event in handle.history() if event.type == "ActivityAttemptFailed"])
            await server.advance(dt.timedelta(hours=12))
            assert await handle.result() == "Ada at last"
            assert await server.now() - before > dt.timedelta(days=30)
            types = [event.type async for event in handle.history()]
            assert "RunInterrupted" not in types
            workers = [worker async for worker in server.client.list_workers()]
            assert len(workers) == 1
