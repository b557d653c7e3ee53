"""A worker that is asked to move: the new stream stands before the old one goes, and nothing stops in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio
import pytest
from tests.sdk.fake_service import FakeService
from tests.stream.kit import Replica, replica, until

from stepwell import Client, Context, Worker, activity, workflow

Working = Callable[..., Any]
calls: list[str] = []
begun, go_on = asyncio.Event(), asyncio.Event()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    calls.clear()
    begun.clear()
    go_on.clear()


@activity
async def held() -> str:
    calls.append("held")
    begun.set()
    await go_on.wait()
    return "done"


@workflow
async def holds(ctx: Context) -> str:
    done: str = await ctx.activity(held)
    return done


@workflow
async def quick(ctx: Context, value: int) -> int:
    return await ctx.step("double", lambda: value * 2)


async def test_the_old_stream_works_on_until_the_new_one_is_welcome(
    service: FakeService, client: Client, working: Working
) -> None:
    async with working(workflows=[quick]):
        service.resume_gate = asyncio.Event()
        service.rotate()
        await service.until(lambda: service.opened == 2)
        assert service.closed == 0
        async with asyncio.timeout(60):
            assert await (await client.start_run(quick, 1)).result() == 2
        assert service.closed == 0
        service.resume_gate.set()
        await service.until(lambda: service.closed == 1)
        async with asyncio.timeout(60):
            assert await (await client.start_run(quick, 2)).result() == 4
        assert (service.opened, len(service.sessions)) == (2, 1)


async def test_what_is_in_hand_moves_along(service: FakeService, client: Client, working: Working) -> None:
    async with working(workflows=[holds], activities=[held]):
        handle = await client.start_run(holds)
        await begun.wait()
        service.rotate()
        await service.until(lambda: (service.opened, service.closed) == (2, 1))
        go_on.set()
        async with asyncio.timeout(60):
            assert await handle.result() == "done"
    assert calls == ["held"]


async def test_a_worker_that_cannot_move_stays_and_tries_again(
    service: FakeService, client: Client, working: Working
) -> None:
    async with working(workflows=[quick]):
        service.refuse_resumes = 2
        service.rotate()
        await service.until(lambda: service.opened >= 2)
        async with asyncio.timeout(60):
            assert await (await client.start_run(quick, 1)).result() == 2
        await service.until(lambda: service.opened == 4 and service.closed == 1)
        assert (len(service.sessions), service.refuse_resumes) == (1, 0)


async def test_a_worker_whose_old_stream_breaks_while_it_moves_resumes(
    service: FakeService, client: Client, working: Working
) -> None:
    async with working(workflows=[quick]):
        service.resume_gate = asyncio.Event()
        service.rotate()
        await service.until(lambda: service.opened == 2)
        service.cut()
        await service.until(lambda: service.closed == 1)
        service.resume_gate.set()
        async with asyncio.timeout(60):
            assert await (await client.start_run(quick, 3)).result() == 6
        assert (service.opened, len(service.sessions)) == (2, 1)


async def test_a_worker_may_leave_while_it_moves(service: FakeService, working: Working) -> None:
    async with working(workflows=[quick]):
        service.resume_gate = asyncio.Event()
        service.rotate()
        await service.until(lambda: service.opened == 2)
        asyncio.get_running_loop().call_later(0.1, service.resume_gate.set)
    await service.until(lambda: service.closed == 2)


async def test_a_worker_moves_from_a_replica_that_leaves(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session, and the activity that it is at, go on at another one."""
    async with (
        replica(database_url) as leaving,
        replica(database_url) as staying,
        await Client.connect(leaving.service.address) as client,
        await Client.connect(staying.service.address) as other,
    ):
        # As behind a load balancer.
        ways = iter([client.open_channel])

        def open_channel() -> grpc.aio.Channel:
            return next(ways, other.open_channel)()

        monkeypatch.setattr(client, "open_channel", open_channel)
        worker = Worker(client, "q", workflows=[holds], activities=[held])
        working = asyncio.create_task(worker.run())
        await worker.is_connected.wait()
        handle = await other.start_run(holds, task_queue="q")
        await begun.wait()
        await leaving.service.dispatcher.drain()
        await until(lambda: (sessions(leaving), sessions(staying)) == (0, 1))
        go_on.set()
        async with asyncio.timeout(60):
            assert await handle.result() == "done"
        events = {event.type for event in await staying.events(handle.run_id)}
        assert events.isdisjoint({"ActivityInterrupted", "ActivityReturned", "RunInterrupted", "RunReturned"})
        worker.shutdown()
        await working
    assert calls == ["held"]


def sessions(one: Replica) -> int:
    return sum(session.attached for session in one.service.dispatcher.sessions.values())
