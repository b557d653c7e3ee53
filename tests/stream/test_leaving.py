"""Leaving: a worker that drains, a replica that rotates, a reader that is too slow."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import grpc.aio
from tests.stream.code import Code, scheduled
from tests.stream.kit import ACCEPTED, ACTIVITY, RUN, Replica, capacity, hello, payload, replica, until
from tests.stream.wire import Wire, wire

from stepwell.v1.workers_pb2 import CompleteActivity, ConnectRequest, ReleaseTask, Report, TaskRef
from stepwell_server import telemetry


async def test_a_draining_worker_gets_no_more_and_finishes_what_it_has(one: Replica) -> None:
    await scheduled(one, 2)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        await stream.say(drain=True)
        assert (await stream.complete(task)).status == ACCEPTED
        await scheduled(one)
        await stream.settled()
        assert not stream.got.get("assigns")
        assert await one.waiting() >= 2
        await stream.half_close()
        assert await stream.end() == "OK"


async def test_leaving_releases_what_is_left_and_ends_the_session(database_url: str) -> None:
    """At once, though the session would have lived for long."""
    async with replica(database_url, session_seconds=90.0) as one:
        run_id = await scheduled(one)
        await one.start()
        async with wire(one, capacity=capacity(activities=1, runs=1)) as stream:
            await stream.task(ACTIVITY)
            code = Code(stream, await stream.task(RUN))
            await code.wait(code.wait_for("never"))
            await stream.say(drain=True)
            await stream.half_close()
            assert await stream.end() == "OK"
            async with wire(one, "other", capacity=capacity(activities=1, runs=1)) as other:
                assert (await other.task(ACTIVITY)).attempt == 1
                again = await other.task(RUN)
                assert [step.name for step in again.steps] == ["wait never"]
            gone = Wire(one, hello(session_id=stream.welcome.session_id))
            await asyncio.wait([asyncio.create_task(gone.open())])
            assert (await gone.call.code()).name == "FAILED_PRECONDITION"
        assert await one.count(run_id, "ActivityReturned") == 1


async def test_half_closing_without_a_drain_keeps_the_session(one: Replica) -> None:
    await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        await stream.half_close()
        assert await stream.end() == "OK"
        again = await Wire(one, hello(session_id=stream.welcome.session_id, held=[task.ref])).open()
        assert (await again.complete(task)).status == ACCEPTED
        await again.cut()


async def test_a_stream_that_is_lost_while_it_drains_keeps_the_session(one: Replica) -> None:
    """To the service its reading ends as if the worker had half-closed."""
    await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        await stream.say(drain=True)
        await stream.settled()
        (session,) = one.service.dispatcher.sessions.values()
        await stream.cut()
        await until(lambda: not session.attached)
        again = await Wire(one, hello(session_id=stream.welcome.session_id, held=[task.ref])).open()
        assert (await again.complete(task)).status == ACCEPTED
        await again.cut()


async def test_reports_under_way_are_answered_before_the_stream_ends(one: Replica) -> None:
    await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        correlation = await stream.send(task.ref, complete=CompleteActivity())
        await stream.half_close()
        assert (await stream.result(correlation)).status == ACCEPTED


async def test_a_replica_that_leaves_asks_its_workers_to_move_and_they_lose_nothing(
    two: tuple[Replica, Replica],
) -> None:
    leaving, staying = two
    await scheduled(leaving)
    async with wire(leaving, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        await stream.settled()
        stopping = asyncio.create_task(leaving.service.dispatcher.drain())
        await stream.next("rotate")
        again = await Wire(staying, hello(session_id=stream.welcome.session_id, held=[task.ref])).open()
        assert [ref.task_id for ref in again.welcome.held] == [task.ref.task_id]
        await stream.cut()
        await stopping
        assert (await again.complete(task)).status == ACCEPTED
        await again.cut()


async def test_a_worker_that_drains_and_is_asked_to_move_may_half_close_the_old_stream(
    two: tuple[Replica, Replica],
) -> None:
    """It is no goodbye: the worker goes on elsewhere, and the word of that may come late."""
    leaving, staying = two
    await scheduled(leaving)
    async with wire(leaving, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        await stream.say(drain=True)
        await stream.settled()
        stopping = asyncio.create_task(leaving.service.dispatcher.drain())
        await stream.next("rotate")
        await stream.half_close()
        assert await stream.end() == "OK"
        await stopping
        again = await Wire(staying, hello(session_id=stream.welcome.session_id, held=[task.ref])).open()
        assert (await again.complete(task)).status == ACCEPTED
        await again.cut()


async def slow_reader(one: Replica) -> Wire:
    """A worker that has said hello, and reads no more."""
    opening = hello("slow", capacity=capacity(activities=1000))
    slow = Wire(one, opening)
    await slow.call.write(ConnectRequest(hello=opening))
    await slow.call.read()
    return slow


GREAT = {"input": payload("x" * 500_000)}


async def test_a_slow_reader_s_outbox_is_bounded_and_others_do_its_work(database_url: str) -> None:
    """It gets no more than it can read, and no attempt is spent for what it was not told."""
    async with replica(database_url, outbox_messages=10, ack_seconds=1.0) as one:
        run_id = await scheduled(one, fields=[GREAT] * 40)
        slow = await slow_reader(one)
        (session,) = one.service.dispatcher.sessions.values()
        await until(lambda: session.held)
        async with wire(one, "quick", capacity=capacity(activities=1000)) as quick:
            for _ in range(40):
                assert len(session.outbox._assigns.items) <= 10
                assert (await quick.task(ACTIVITY)).attempt == 1
            assert quick.ended is None
        assert await one.count(run_id, "ActivityInterrupted") == 0
        slow.call.cancel()


async def test_a_slow_reader_s_stream_is_ended(database_url: str) -> None:
    """Answers to what it says itself have nowhere to go: its outbox takes so many, and then the stream is over."""
    async with replica(database_url, outbox_messages=10, ack_seconds=30.0, session_seconds=60.0) as one:
        run_id = await scheduled(one, fields=[GREAT] * 10)
        streams = telemetry.metrics.streams._value.get()
        slow = await slow_reader(one)
        (session,) = one.service.dispatcher.sessions.values()
        await until(lambda: session.held and not session.unassigned)
        stale = TaskRef(task_id="1.0", token=1)
        with contextlib.suppress(grpc.aio.AioRpcError):
            for _ in range(20):
                await slow.call.write(ConnectRequest(reports=[Report(ref=stale, release=ReleaseTask())] * 20))
        await until(lambda: session.outbox.overflowed)
        await until(lambda: not session.attached)
        assert len(session.outbox._results.items) <= 10
        async with wire(one, "quick", capacity=capacity(activities=1000)) as quick:
            for _ in range(10):
                assert (await quick.task(ACTIVITY)).attempt == 1
        await until(lambda: telemetry.metrics.streams._value.get() == streams)
        assert await one.count(run_id, "ActivityInterrupted") == 0


async def test_a_burst_beyond_the_outbox_cuts_off_nobody_who_reads(database_url: str) -> None:
    async with replica(database_url, outbox_messages=10) as one:
        await scheduled(one, 200)
        async with wire(one, capacity=capacity(activities=1000)) as stream:
            for _ in range(200):
                await stream.task(ACTIVITY)
            assert stream.ended is None
