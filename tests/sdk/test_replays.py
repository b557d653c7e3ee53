"""Replays whose record is read in pages, while the run goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.chaos.kit import until
from tests.sdk.fake_service import FakeService

from stepwell import Client, Context, workflow
from stepwell.v1 import types_pb2
from stepwell.v1.workers_pb2 import ConnectResponse

Working = Callable[..., Any]


async def test_a_step_that_ends_while_the_record_is_read_is_not_missed(
    service: FakeService, client: Client, working: Working
) -> None:
    """A page says that the step is open; before it arrives the service tells its end, which it tells once."""
    calls: list[str] = []

    def note(text: str) -> str:
        calls.append(text)
        return text

    @workflow
    async def long(ctx: Context) -> list[str]:
        noted = [await ctx.step("noted", note, str(number)) for number in range(3)]
        return [*noted, await ctx.wait_signal("go"), await ctx.step("last", note, "last")]

    async with working(workflows=[long]):
        handle = await client.start_run(long)
        run = service.runs[handle.run_id]
        await until(lambda: any(record.kind == types_pb2.STEP_KIND_WAIT for record in run.steps))
        service.inline_steps, service.page_gate = 2, asyncio.Event()
        service.evict(handle.run_id)
        await until(lambda: service.calls["ListTaskSteps"] == 1)
        await handle.signal("go", "now")
        # What the worker is told comes in order: it has heard of the end when it answers.
        correlation = len(service.received)
        for session in service.sessions.values():
            session.out.put_nowait(ConnectResponse(ping=1))
        await until(lambda: len(service.received) > correlation)
        service.page_gate.set()
        async with asyncio.timeout(60):
            assert await handle.result() == ["0", "1", "2", "now", "last"]
    assert calls == ["0", "1", "2", "last"]
