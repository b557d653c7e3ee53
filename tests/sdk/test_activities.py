"""Activities: where they run, what they tell, and how they stop."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from tests.sdk.activity_examples import dies_once, until_cancelled, where
from tests.sdk.fake_service import FakeService

from stepwell import ActivityFailed, ApplicationError, Client, Context, RetryPolicy, RunFailed, activity, workflow
from stepwell.v1 import workers_pb2
from stepwell.v1.workers_pb2 import ConnectResponse

Working = Callable[..., Any]


@workflow
async def asks(ctx: Context, name: str) -> Any:
    try:
        return await ctx.activity(name)
    except ActivityFailed as error:
        return error.type


async def test_details_reach_the_next_attempt(service: FakeService, client: Client, working: Working) -> None:
    """What was told last counts, also if it was told just before the failure."""

    @activity
    def resuming() -> list[Any]:
        info = activity.info()
        if info.attempt == 1:
            for number in range(1000):
                activity.heartbeat(number)
            raise ApplicationError("again", retry_after=0.01)
        return [info.attempt, info.heartbeat_details]

    async with working(workflows=[asks], activities=[resuming]):
        assert await (await client.start_run(asks, "resuming")).result() == [2, 999]
    assert len(service.beats) <= 3


async def test_what_is_lost_is_reported_all_the_same(service: FakeService, client: Client, working: Working) -> None:
    """The answer to a heartbeat says so: the function is stopped, and the place that it took is given back."""

    @activity
    async def beating() -> None:
        activity.heartbeat()
        await asyncio.Event().wait()

    service.loses_who_beats = True
    async with working(workflows=[asks], activities=[beating]), asyncio.timeout(60):
        assert await (await client.start_run(asks, "beating")).result() == "Cancelled"


@pytest.mark.parametrize("is_async", [True, False])
async def test_cancellation(service: FakeService, client: Client, working: Working, is_async: bool) -> None:
    """Async functions are interrupted, plain ones look at a flag; both report that they stopped."""

    @activity
    async def sleeping() -> None:
        activity.heartbeat()
        await asyncio.Event().wait()

    name = "sleeping" if is_async else "until_cancelled"
    async with working(workflows=[asks], activities=[sleeping, until_cancelled]):
        handle = await client.start_run(asks, name)
        await _cancel(service)
        assert await handle.result() == "Cancelled"


async def test_processes(service: FakeService, client: Client, working: Working) -> None:
    """Plain functions run in other processes; heartbeats and cancellation reach across."""
    options = {"workflows": [asks], "activities": [where, until_cancelled], "max_activities": 2}
    async with working(**options, executor="processes"):
        async with asyncio.timeout(60):
            assert await (await client.start_run(asks, "where")).result() != os.getpid()
        handle = await client.start_run(asks, "until_cancelled")
        await service.until(lambda: any(beat.details.json for beat in service.beats))
        told = {json.loads(beat.details.json)["pid"] for beat in service.beats}
        assert os.getpid() not in told
        await _cancel(service)
        async with asyncio.timeout(60):
            assert await handle.result() == "Cancelled"


async def test_a_process_that_dies(service: FakeService, client: Client, working: Working) -> None:
    """Its attempt fails, and the next one finds a pool again."""
    async with working(workflows=[asks], activities=[dies_once], max_activities=2, executor="processes"):
        async with asyncio.timeout(60):
            assert await (await client.start_run(asks, "dies once")).result() == 2


async def test_a_revoked_activity_reports_nothing(service: FakeService, client: Client, working: Working) -> None:
    """It is somebody else's now."""
    stopped = asyncio.Event()

    @activity
    async def sleeping() -> None:
        try:
            activity.heartbeat()
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with working(workflows=[asks], activities=[sleeping]):
        await client.start_run(asks, "sleeping")
        task = await _held(service)
        assert task.holder is not None
        revoke = workers_pb2.RevokeTask(ref=task.ref, reason="LEASE_LOST")
        task.holder.out.put_nowait(ConnectResponse(revokes=[revoke]))
        async with asyncio.timeout(60):
            await stopped.wait()
        task.holder = None
    reported = {report.ref.task_id for message in service.received for report in message.reports}
    assert task.ref.task_id not in reported


async def test_an_activity_that_raises_cancelled_by_itself_fails(
    service: FakeService, client: Client, working: Working
) -> None:
    """Nobody asked it to stop: that is a failure like any other."""

    @activity
    async def confused() -> None:
        raise asyncio.CancelledError

    @workflow
    async def once(ctx: Context) -> None:
        await ctx.activity(confused, retry=RetryPolicy(maximum_attempts=1))

    async with working(workflows=[once], activities=[confused]):
        with pytest.raises(RunFailed, match="CancelledError"):
            await (await client.start_run(once)).result()


def test_outside_of_an_activity() -> None:
    """The calls for inside say so."""
    with pytest.raises(RuntimeError, match="inside an activity"):
        activity.heartbeat()


async def _held(service: FakeService) -> Any:
    """An activity that its worker has begun: it has said so."""
    await service.until(lambda: service.beats)
    return next(task for task in service.activities.values() if task.holder)


async def _cancel(service: FakeService) -> None:
    task = await _held(service)
    cancel = workers_pb2.CancelTask(ref=task.ref, reason="enough")
    task.holder.out.put_nowait(ConnectResponse(cancels=[cancel]))
