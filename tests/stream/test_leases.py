"""Acknowledgement, loss and resumption: to whom a task belongs when messages, streams or workers go missing."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.stream.code import Code, scheduled
from tests.stream.kit import (
    ACCEPTED,
    ACTIVITY,
    DUPLICATE,
    REFUSED,
    RUN,
    Replica,
    capacity,
    error_reason,
    hello,
    payload,
    replica,
    until,
)
from tests.stream.wire import Wire, wire

from stepwell.v1.workers_pb2 import CompleteActivity, TaskRef


async def resumed(one: Replica, stream: Wire, *held: TaskRef, **fields: Any) -> Wire:
    """The session on a new stream."""
    told = {"session_id": stream.welcome.session_id, "held": held, "capacity": stream.hello.capacity} | fields
    return await Wire(one, hello(stream.hello.worker_id, **told)).open()


async def test_what_was_acknowledged_stays_for_the_session_and_goes_back_when_it_expires(one: Replica) -> None:
    run_id = await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        held = await stream.task(ACTIVITY)
        await stream.settled()
        await stream.cut()
        loop = asyncio.get_running_loop()
        cut_time = loop.time()
        async with wire(one, "other", capacity=capacity(activities=1)) as other:
            again = await other.task(ACTIVITY)
            # It may have been written last up to half a heartbeat before.
            assert loop.time() - cut_time > 2.0 - 0.5 - 0.2
            assert again.attempt == held.attempt + 1
    assert await one.count(run_id, "ActivityInterrupted") == 1
    assert await one.count(run_id, "ActivityReturned") == 0


async def test_an_expired_session_is_not_resumed(one: Replica) -> None:
    async with wire(one, is_lively=False) as stream:
        await stream.cut()
        session_id = stream.welcome.session_id

        async def is_gone() -> bool:
            async with one.service.dispatcher.reader.connection() as connection:
                return not await connection.raw.fetchval(
                    "SELECT count(*) FROM sessions WHERE session_id = $1", session_id
                )

        await until(is_gone)
        call: Any = one.workers.Connect()
        again = Wire(one, hello(session_id=session_id))
        again.call = call
        late = asyncio.create_task(again.open())
        await asyncio.wait([late])
        assert late.exception() is not None
        assert await again.call.code() is not None


async def test_a_resumed_session_keeps_what_it_names_and_the_rest_goes_back(one: Replica) -> None:
    await scheduled(one, 3)
    async with wire(one, capacity=capacity(activities=3)) as stream:
        tasks = [await stream.task(ACTIVITY) for _ in range(3)]
        await stream.settled()
        await stream.cut()
        again = await resumed(one, stream, tasks[0].ref, tasks[1].ref)
        assert again.welcome.resumed
        assert {ref.task_id for ref in again.welcome.held} == {task.ref.task_id for task in tasks[:2]}
        for task in tasks[:2]:
            assert (await again.complete(task)).status == ACCEPTED
        returned = await again.task(ACTIVITY)
        assert returned.ref.task_id == tasks[2].ref.task_id
        assert returned.ref.token > tasks[2].ref.token
        assert error_reason(await again.complete(tasks[2])) == "LEASE_LOST"
        await again.cut()


async def test_a_task_under_another_token_is_not_kept(one: Replica) -> None:
    await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        await stream.settled()
        await stream.cut()
        again = await resumed(one, stream, TaskRef(task_id=task.ref.task_id, token=task.ref.token + 1))
        assert not again.welcome.held
        await again.cut()


async def test_a_named_task_is_kept_though_its_acknowledgement_was_lost(database_url: str) -> None:
    """The old stream still stands, as after a break that only the worker has noticed."""
    async with replica(database_url, ack_seconds=1.0) as one:
        run_id = await scheduled(one)
        async with wire(one, capacity=capacity(activities=1)) as stream:
            task = await stream.task(ACTIVITY, ack=False)
            again = await resumed(one, stream, task.ref)
            assert [ref.task_id for ref in again.welcome.held] == [task.ref.task_id]
            await stream.end()
            # The time to acknowledge passes on the old stream, and nothing may come of it.
            await asyncio.sleep(1.5)
            assert (await again.complete(task)).status == ACCEPTED
            await again.cut()
        assert await one.count(run_id, "ActivityReturned") == 0


async def test_resuming_ends_the_stream_that_still_stands(one: Replica) -> None:
    await scheduled(one, 2)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        again = await resumed(one, stream, task.ref)
        await stream.end()
        assert (await again.complete(task)).status == ACCEPTED
        await again.complete(await again.task(ACTIVITY))
        assert again.most[ACTIVITY] == 1
        await again.cut()


async def test_leaving_by_an_old_stream_leaves_the_new_one_its_session(one: Replica) -> None:
    await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        await stream.say(drain=True)
        await stream.settled()
        again = await resumed(one, stream, task.ref)
        await stream.half_close()
        await stream.end()
        await again.settled()
        assert not (await again.beat(task)).lost
        assert (await again.complete(task)).status == ACCEPTED
        await again.cut()


async def test_a_resumed_run_hears_what_it_missed(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.wait(code.wait_for("go"), code.activity(task_queue="elsewhere"))
        await stream.cut()
        await one.signal(run_id, "go", "news")
        async with wire(one, "other", task_queues=["elsewhere"], capacity=capacity(activities=1)) as other:
            await other.complete(await other.task(ACTIVITY), 42)
        again = await resumed(one, stream, code.task.ref)
        code.stream = again
        heard: dict[str, str] = {}
        while len(heard) < 2:
            heard |= {step.name: step.result.json for step in (await code.advance()).steps}
        assert heard == {"wait go": '"news"', "a": "42"}
        assert (await code.complete()).status == ACCEPTED
        await again.cut()


async def test_a_resumed_run_hears_that_it_was_cancelled(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.wait(code.wait_for("go"))
        await stream.cut()
        await one.cancel(run_id, "no more")
        again = await resumed(one, stream, code.task.ref)
        code.stream = again
        news = await code.advance()
        assert (news.cancel_requested, news.cancel_reason) == (True, "no more")
        await again.cut()


async def test_ten_thousand_bytes_many_times_reach_a_resumed_run_in_several_messages(database_url: str) -> None:
    async with (
        replica(database_url, session_seconds=60) as one,
        wire(one, capacity=capacity(runs=1)) as stream,
    ):
        run_id = await one.start()
        code = Code(stream, await stream.task(RUN))
        await code.wait(*[code.wait_for(f"s{number}") for number in range(40)])
        await stream.cut()
        for number in range(40):
            await one.signal(run_id, f"s{number}", "x" * 200_000)
        again = await resumed(one, stream, code.task.ref)
        code.stream = again
        heard: set[str] = set()
        while len(heard) < 40:
            heard |= {step.name for step in (await code.advance()).steps}
        assert again.ended is None
        await again.cut()


async def test_a_report_sent_again_over_a_new_stream_is_a_duplicate_recorded_once(one: Replica) -> None:
    run_id = await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        await stream.send(task.ref, complete=CompleteActivity(result=payload(1)))
        await one.eventually(run_id, "ActivityCompleted")
        await stream.cut()
        again = await resumed(one, stream, task.ref)
        assert not again.welcome.held
        result = await again.report(task.ref, complete=CompleteActivity(result=payload(1)))
        assert result.status == DUPLICATE
        await again.cut()
    assert await one.count(run_id, "ActivityCompleted") == 1


async def test_a_progress_sent_again_over_a_new_stream_is_a_duplicate_with_the_same_ordinals(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        told = code.progress(code.local(1), code.activity(task_queue="elsewhere"), waiting=True)
        await stream.send(code.task.ref, progress=told)
        await one.eventually(run_id, "ActivityScheduled")
        await stream.cut()
        again = await resumed(one, stream, code.task.ref)
        result = await again.report(code.task.ref, progress=told)
        assert (result.status, list(result.ordinals)) == (DUPLICATE, [1, 2])
        await again.cut()
    assert await one.count(run_id, "StepCompleted") == 1
    assert await one.count(run_id, "ActivityScheduled") == 1


async def test_a_repeated_wait_without_room_in_memory_queues_the_run(one: Replica) -> None:
    """It was recorded as staying with the worker, which has less room since."""
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        told = code.progress(code.wait_for("go"), waiting=True)
        await stream.send(code.task.ref, progress=told)
        await one.eventually(run_id, "WaitStarted")
        await stream.cut()
        again = await resumed(one, stream, code.task.ref, capacity=capacity(runs=1, resident=0))
        assert (await again.report(code.task.ref, progress=told)).status == DUPLICATE
        await one.signal(run_id, "go")
        await until(lambda: bool(again.got.get("assigns")))
        await again.cut()


async def test_a_lost_session_s_reports_change_nothing(one: Replica) -> None:
    run_id = await scheduled(one)
    async with wire(one, "late", is_lively=False, capacity=capacity(activities=1)) as late:
        task = await late.task(ACTIVITY)
        async with wire(one, "other", capacity=capacity(activities=1)) as other:
            mine = await other.task(ACTIVITY)
            result = await late.report(task.ref, complete=CompleteActivity(result=payload("late")))
            assert result.status == REFUSED
            assert error_reason(result) == "LEASE_LOST"
            await late.say()
            assert await late.end() == "FAILED_PRECONDITION"
            assert (await other.complete(mine, "in time")).status == ACCEPTED
    (event,) = [event for event in await one.events(run_id) if event.type == "ActivityCompleted"]
    assert event.payload.json == '"in time"'
