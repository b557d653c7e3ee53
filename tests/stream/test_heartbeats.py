"""Heartbeats: answered after the write, handed to the next attempt, and lost where the lease is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.stream.code import Code, scheduled
from tests.stream.kit import ACTIVITY, RUN, Replica, capacity, payload
from tests.stream.wire import wire

from stepwell.v1 import types_pb2, workers_pb2
from stepwell.v1.workers_pb2 import FailActivity, TaskHeartbeat
from stepwell_server.store import recall


async def test_a_stale_token_s_heartbeat_is_lost_and_leaves_no_details(one: Replica) -> None:
    """Also when the present holder beats in the same breath: neither answers for the other."""
    await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        lost = await stream.task(ACTIVITY)
        await stream.report(lost.ref, release=workers_pb2.ReleaseTask())
        present = await stream.task(ACTIVITY)
        for order in ((lost, present), (present, lost)):
            beats = [TaskHeartbeat(ref=task.ref, details=payload(task.ref.token)) for task in order]
            await stream.say(heartbeats=beats)
            results = [await stream.next("heartbeats") for _ in order]
            assert {result.ref.token: result.lost for result in results} == {
                lost.ref.token: True,
                present.ref.token: False,
            }
        await stream.report(present.ref, fail=FailActivity(failure=types_pb2.Failure(message="again")))
        again = await stream.task(ACTIVITY)
        assert again.heartbeat_details.json == str(present.ref.token)


async def test_a_heartbeat_is_answered_after_it_was_written_with_the_durable_end(one: Replica) -> None:
    await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        result = await stream.beat(task, {"done": 3})
        assert not result.lost
        assert not result.cancel_requested
        told = await stream.next("session_expire_time")
        async with one.service.dispatcher.reader.connection() as connection:
            written = await connection.raw.fetchval("SELECT expire_time FROM sessions")
            details = await connection.raw.fetchval("SELECT details FROM heartbeats")
        assert written >= told.ToDatetime(tzinfo=written.tzinfo)
        assert b'{"done": 3}' in details


@pytest.mark.parametrize("ended_by", ["failure", "loss"])
async def test_the_details_are_handed_to_the_next_attempt(one: Replica, ended_by: str) -> None:
    await scheduled(one)
    async with wire(one, "first", capacity=capacity(activities=1)) as first:
        task = await first.task(ACTIVITY)
        assert not task.HasField("heartbeat_details")
        await first.beat(task, "half")
        await first.beat(task)
        if ended_by == "failure":
            await first.report(task.ref, fail=FailActivity(failure=types_pb2.Failure(message="again")))
        await first.cut()
        async with wire(one, "second", capacity=capacity(activities=1)) as second:
            again = await second.task(ACTIVITY)
            assert (again.attempt, again.heartbeat_details.json) == (2, '"half"')


async def test_beats_without_details_leave_those_of_the_same_breath(one: Replica) -> None:
    await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        beats = [TaskHeartbeat(ref=task.ref, details=payload("kept")), TaskHeartbeat(ref=task.ref)]
        await stream.say(heartbeats=beats)
        for _ in beats:
            await stream.next("heartbeats")
        await stream.report(task.ref, fail=FailActivity(failure=types_pb2.Failure(message="again")))
        assert (await stream.task(ACTIVITY)).heartbeat_details.json == '"kept"'


@pytest.mark.parametrize(
    "outcome",
    [{"fail": FailActivity(failure=types_pb2.Failure(message="again"))}, {"release": workers_pb2.ReleaseTask()}],
)
async def test_what_is_told_with_the_end_of_an_attempt_reaches_the_next(
    one: Replica, monkeypatch: pytest.MonkeyPatch, outcome: dict[str, Any]
) -> None:
    """However long the write takes: the attempt goes on until then."""
    write, writing, may_write = recall.write_heartbeats, asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any) -> Any:
        writing.set()
        await may_write.wait()
        return await write(*arguments)

    monkeypatch.setattr(recall, "write_heartbeats", slow)
    await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        beat = TaskHeartbeat(ref=task.ref, details=payload("last"))
        await stream.say(heartbeats=[beat], reports=[workers_pb2.Report(correlation=1, ref=task.ref, **outcome)])
        await writing.wait()
        await one.start(queue="elsewhere")
        await stream.settled()
        assert "results" not in stream.got
        may_write.set()
        await stream.result(1)
        assert (await stream.task(ACTIVITY)).heartbeat_details.json == '"last"'


async def test_a_lost_heartbeat_gives_the_place_back(one: Replica) -> None:
    """The worker drops the task and says no more of it: its place must not wait for a report."""
    queue = {"task_queue": "q"}
    run_id = await one.start(queue="runs")
    async with wire(one, "runs", task_queues=["runs"], capacity=capacity(runs=1)) as runs:
        code = Code(runs, await runs.task(RUN))
        await code.tell(code.activity(**queue))
        async with wire(one, capacity=capacity(activities=1)) as stream:
            task = await stream.task(ACTIVITY)
            await one.end(run_id)
            assert (await stream.next("cancels")).ref == task.ref
            assert (await stream.beat(task)).lost
            await scheduled(one)
            await stream.task(ACTIVITY)
