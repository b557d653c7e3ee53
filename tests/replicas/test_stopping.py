"""A replica that is told to stop: what it says first, whom it sends elsewhere, and what does not hold it up."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from tests.api.test_server import NOT_SERVING, SERVING, Namespaces, get, health, serving
from tests.service import refusal, soon
from tests.stream.kit import ACTIVITY, capacity, hello, replica, until
from tests.stream.wire import Wire, wire

from stepwell.v1 import jobs_pb2, runs_pb2, workers_pb2
from stepwell_server.settings import Settings

# Far longer than anything here may take.
LONG = 50.0


async def test_calls_are_taken_while_health_says_no() -> None:
    """For as long as is set, so that balancers which ask for health have turned elsewhere by then."""
    drained = asyncio.Event()

    async def drain() -> None:
        drained.set()

    async with serving(Namespaces(), unready_seconds=600) as (server, channel):
        await server.ready()
        stopping = asyncio.create_task(server.stop(drain))
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        while (await watch.read()).status != NOT_SERVING:
            pass
        assert await get(channel, "here") == "here"
        assert not drained.is_set()
        stopping.cancel()
        await asyncio.wait((stopping,))
        watch.cancel()
        server._settings = Settings()
    async with serving(Namespaces(), unready_seconds=0.05) as (server, channel):
        await server.ready()
        assert await health(channel) == SERVING
        await server.stop(drain)
    assert drained.is_set()


async def test_who_watches_its_health_does_not_hold_it_up() -> None:
    async with serving(Namespaces(), shutdown_seconds=LONG) as (server, channel):
        await server.ready()
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        began = time.monotonic()
        await server.stop()
        assert time.monotonic() - began < LONG / 2
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF


async def test_who_waits_for_an_end_is_sent_elsewhere(database_url: str) -> None:
    """At once, and with a reason that says to repeat: the wait is not over, and another replica knows when it is."""
    async with replica(database_url, shutdown_seconds=LONG) as one:
        run_id, job_id = await one.start(), await one.start_job()
        wait_run = one.runs.WaitRun(runs_pb2.WaitRunRequest(run_id=run_id), timeout=2 * LONG)
        wait_job = one.jobs.WaitJob(jobs_pb2.WaitJobRequest(job_id=job_id), timeout=2 * LONG)
        refusals = [asyncio.create_task(refusal(each)) for each in (wait_run, wait_job)]
        await soon(lambda: waits(one, 2))
        began = time.monotonic()
        await one.service.stop()
        assert time.monotonic() - began < LONG / 2
        assert [await each for each in refusals] == [("UNAVAILABLE", "SERVER_NOT_READY")] * 2


async def waits(one: Any, count: int) -> bool:
    return len(one.service.watches._waits) == count


async def test_who_is_sent_away_knows_all_that_it_has(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is on its way comes first: named elsewhere without it, the worker would lose it though it began."""
    may_read = asyncio.Event()
    async with replica(database_url) as one, wire(one, capacity=capacity(activities=1)) as stream:
        reader = one.service.dispatcher.reader
        assignments = reader.assignments

        async def slowly(grants: Any) -> Any:
            await may_read.wait()
            return await assignments(grants)

        monkeypatch.setattr(reader, "at_hand", lambda _: None)
        monkeypatch.setattr(reader, "assignments", slowly)
        job_id = await one.start_job()
        (session,) = one.service.dispatcher.sessions.values()
        await until(lambda: session.unassigned)
        draining = asyncio.create_task(one.service.dispatcher.drain())
        await until(lambda: one.service.dispatcher.is_leaving)
        await stream.say(ping=7)
        await stream.next("pong", lambda number: number == 7)
        assert "rotate" not in stream.got
        may_read.set()
        await stream.next("rotate")
        assert [task.job_id for task in stream.working.values()] == [job_id]
        await draining


async def test_who_does_not_move_is_given_work_again(database_url: str) -> None:
    """It is asked once, gets nothing while it might go, and then stays."""
    async with (
        replica(database_url, connection_seconds=0.2, ping_seconds=0.8) as one,
        wire(one, capacity=capacity(activities=1)) as stream,
    ):
        await stream.next("rotate")
        await one.start_job()
        assert (await stream.task(ACTIVITY)).kind == ACTIVITY


async def test_workers_are_asked_to_move_now_and_then(database_url: str) -> None:
    """Also where nobody leaves: else a replica that came later would never get any. Each stream is asked once."""
    async with (
        replica(database_url, connection_seconds=0.2) as one,
        wire(one, capacity=capacity(activities=1)) as stream,
    ):
        await stream.next("rotate")
        again = await Wire(one, hello(session_id=stream.welcome.session_id)).open()
        await again.next("rotate")
        await again.cut()
    async with replica(database_url) as one, wire(one, capacity=capacity(activities=1)) as stream:
        await stream.settled()
        assert "rotate" not in stream.got


@pytest.mark.parametrize("before", [True, False])
async def test_who_waits_for_tasks_is_answered(database_url: str, before: bool) -> None:
    """With none: the next claim goes elsewhere. One that comes while it stops is not kept for long either."""
    async with replica(database_url, shutdown_seconds=LONG) as one:
        opened = await one.workers.OpenSession(workers_pb2.OpenSessionRequest(hello=hello("unary")))
        claim = workers_pb2.ClaimTasksRequest(session_id=opened.welcome.session_id, max_tasks=1)
        claim.wait.FromMilliseconds(int(LONG * 1000))
        began = time.monotonic()
        if not before:
            await one.service.dispatcher.drain()
        claiming = asyncio.create_task(claimed(one, claim))
        if before:
            await asyncio.sleep(0.2)
            await one.service.dispatcher.drain()
        assert list((await claiming).tasks) == []
        assert time.monotonic() - began < LONG / 2


async def claimed(one: Any, claim: Any) -> Any:
    return await one.workers.ClaimTasks(claim, timeout=2 * LONG)
