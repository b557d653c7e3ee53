"""Reports: each is answered for itself, recorded once, and refused from whoever does not hold the task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.stream.kit import (
    ACCEPTED,
    ACTIVITY,
    DUPLICATE,
    REFUSED,
    RUN,
    Code,
    Replica,
    capacity,
    error_reason,
    payload,
    scheduled,
    until,
    wire,
)

from stepwell.v1 import types_pb2, workers_pb2
from stepwell.v1.workers_pb2 import CancelledActivity, CompleteActivity, FailActivity, Report, TaskHeartbeat, TaskRef

FAIL = FailActivity(failure=types_pb2.Failure(message="no", non_retryable=True))
OUTCOMES: dict[str, dict[str, Any]] = {
    "complete": {"complete": CompleteActivity(result=payload(1))},
    "fail": {"fail": FAIL},
    "cancelled": {"cancelled": CancelledActivity()},
}


async def test_results_are_correlated_and_stand_alone(one: Replica) -> None:
    """One message, many reports: each is answered under its own number, and a bad one disturbs nobody."""
    await scheduled(one, 3)
    async with wire(one, capacity=capacity(activities=3)) as stream:
        tasks = [await stream.task(ACTIVITY) for _ in range(3)]
        done: dict[str, Any] = {"complete": CompleteActivity(result=payload(1))}
        stale = TaskRef(task_id=tasks[1].ref.task_id, token=tasks[1].ref.token - 1)
        reports = [
            Report(correlation=70, ref=tasks[0].ref, **done),
            Report(correlation=50, ref=stale, **done),
            Report(correlation=90, ref=tasks[2].ref),
            Report(correlation=60, ref=tasks[1].ref, **done),
            Report(correlation=61, ref=tasks[1].ref, **done),
            Report(correlation=80, ref=TaskRef(task_id="nonsense", token=1), **done),
        ]
        await stream.say(reports=reports)
        results = {number: await stream.result(number) for number in (90, 50, 60, 61, 70, 80)}
        assert {number: result.status for number, result in results.items()} == {
            70: ACCEPTED,
            50: REFUSED,
            90: REFUSED,
            60: ACCEPTED,
            61: DUPLICATE,
            80: REFUSED,
        }
        assert error_reason(results[50]) == "LEASE_LOST"
        assert error_reason(results[90]) == error_reason(results[80]) == "INVALID_FIELD"
        assert stream.ended is None


@pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES)
async def test_the_same_report_twice_is_a_duplicate_and_recorded_once(one: Replica, outcome: dict[str, Any]) -> None:
    run_id = await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        assert (await stream.report(task.ref, **outcome)).status == ACCEPTED
        assert (await stream.report(task.ref, **outcome)).status == DUPLICATE
    ends = {"ActivityCompleted", "ActivityFailed", "ActivityCancelled", "ActivityAttemptFailed"}
    assert sum([await one.count(run_id, end) for end in ends]) == 1


async def test_another_end_after_the_first_is_refused(one: Replica) -> None:
    run_id = await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        await stream.complete(task)
        assert error_reason(await stream.report(task.ref, fail=FAIL)) == "LEASE_LOST"
    assert await one.count(run_id, "ActivityFailed") == 0


async def test_a_run_s_end_twice_is_a_duplicate(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        told = code.progress(code.local(1), complete=workers_pb2.CompleteRun(result=payload(2)))
        assert (await stream.report(code.task.ref, progress=told)).status == ACCEPTED
        assert (await stream.report(code.task.ref, progress=told)).status == DUPLICATE
    assert await one.count(run_id, "RunCompleted") == 1
    assert await one.count(run_id, "StepCompleted") == 1


@pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES)
async def test_a_stale_token_is_refused_and_changes_nothing(one: Replica, outcome: dict[str, Any]) -> None:
    run_id = await scheduled(one)
    async with wire(one, "former", capacity=capacity(activities=1)) as former:
        lost = await former.task(ACTIVITY)
        await former.report(lost.ref, release=workers_pb2.ReleaseTask())
        present = await former.task(ACTIVITY)
        assert present.ref.token > lost.ref.token
        before = len(await one.events(run_id))
        assert error_reason(await former.report(lost.ref, **outcome)) == "LEASE_LOST"
        assert len(await one.events(run_id)) == before
        assert (await former.complete(present)).status == ACCEPTED


async def test_a_stale_token_is_refused_for_progress(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        lost = Code(stream, await stream.task(RUN))
        await stream.report(lost.task.ref, release=workers_pb2.ReleaseTask())
        present = Code(stream, await stream.task(RUN))
        before = len(await one.events(run_id))
        assert error_reason(await lost.tell(lost.local(1))) == "LEASE_LOST"
        assert error_reason(await lost.tell(waiting=True)) == "LEASE_LOST"
        assert error_reason(await lost.complete()) == "LEASE_LOST"
        assert len(await one.events(run_id)) == before
        assert (await present.complete(present.local(1))).status == ACCEPTED


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


async def test_another_namespace_s_task_is_refused(one: Replica) -> None:
    """Whoever guesses a task's id and token reaches nothing across the border."""
    other = await one.namespace("other")
    run_id = await scheduled(one)
    async with (
        wire(one, capacity=capacity(activities=1)) as mine,
        wire(one, "stranger", namespace=other, capacity=capacity(activities=1)) as stranger,
    ):
        task = await mine.task(ACTIVITY)
        before = len(await one.events(run_id))
        for outcome in OUTCOMES.values():
            assert error_reason(await stranger.report(task.ref, **outcome)) == "RUN_NOT_FOUND"
        run = TaskRef(task_id=task.ref.task_id.split(".")[0] + ".0", token=1)
        assert error_reason(await stranger.report(run, progress=workers_pb2.Progress())) == "RUN_NOT_FOUND"
        assert (await stranger.beat(task)).lost
        assert len(await one.events(run_id)) == before
        assert (await mine.complete(task)).status == ACCEPTED


async def test_another_session_s_task_is_refused(one: Replica) -> None:
    await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as mine, wire(one, "stranger") as stranger:
        task = await mine.task(ACTIVITY)
        assert error_reason(await stranger.complete(task)) == "LEASE_LOST"
        assert (await stranger.beat(task)).lost
        assert (await mine.complete(task)).status == ACCEPTED


async def test_a_report_that_does_not_suit_its_task_is_refused(one: Replica) -> None:
    await scheduled(one)
    await one.start()
    async with wire(one, capacity=capacity(activities=1, runs=1)) as stream:
        activity, run = await stream.task(ACTIVITY), await stream.task(RUN)
        assert error_reason(await stream.report(run.ref, complete=CompleteActivity())) == "INVALID_FIELD"
        assert error_reason(await stream.report(activity.ref, progress=workers_pb2.Progress())) == "INVALID_FIELD"


# --- heartbeats -------------------------------------------------------------------------------------------------------


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


# --- cancellation -----------------------------------------------------------------------------------------------------


async def test_a_heartbeat_is_told_of_a_cancelled_run(one: Replica) -> None:
    run_id = await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        assert not (await stream.beat(task)).cancel_requested
        await one.cancel(run_id)
        result = await stream.beat(task)
        assert result.cancel_requested
        assert not result.lost


async def test_a_cancelled_run_s_holder_hears(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.wait(code.wait_for("never"))
        await one.cancel(run_id, "enough")
        news = await code.advance()
        assert (news.cancel_requested, news.cancel_reason) == (True, "enough")
        result = await code.tell(cancelled=workers_pb2.CancelledRun(details=payload("cleaned")))
        assert result.status == ACCEPTED
    assert await one.count(run_id, "RunCancelled") == 1


async def test_a_cancelled_run_that_nobody_holds_is_assigned_with_the_word(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1, resident=0)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.wait(code.wait_for("never"))
        await stream.next("revokes")
        await one.cancel(run_id, "enough")
        task = await stream.task(RUN)
        assert (task.cancel_requested, task.cancel_reason) == (True, "enough")


def given_up(code: Code, ordinal: int) -> Any:
    return code.tell(cancel_ordinals=[ordinal])


@pytest.mark.parametrize("how", ["given up", "ended"])
async def test_a_cancelled_step_s_activity_is_told_at_once(one: Replica, how: str) -> None:
    await one.start(queue="runs")
    async with (
        wire(one, "runs", task_queues=["runs"], capacity=capacity(runs=1)) as runs,
        wire(one, "acts", capacity=capacity(activities=1)) as acts,
    ):
        code = Code(runs, await runs.task(RUN))
        (ordinal,) = (await code.tell(code.activity(task_queue="q"))).ordinals
        task = await acts.task(ACTIVITY)
        if how == "given up":
            assert (await given_up(code, ordinal)).status == ACCEPTED
        else:
            assert (await code.complete()).status == ACCEPTED
        assert (await acts.next("cancels")).ref == task.ref
        assert (await acts.report(task.ref, cancelled=CancelledActivity())).status == DUPLICATE
        await scheduled(one)
        await acts.task(ACTIVITY)


async def test_a_cancelled_step_that_was_not_sent_yet_is_withdrawn(
    one: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the word to stop would overtake the task, and be lost on the worker."""
    await one.start(queue="runs")
    reader = one.service.dispatcher.reader
    read: Callable[..., Any] = reader.assignments
    may_read = asyncio.Event()

    async def slow(grants: Any, worker_id: str) -> Any:
        if any(grant.step is not None for grant in grants):
            await may_read.wait()
        return await read(grants, worker_id)

    monkeypatch.setattr(reader, "assignments", slow)
    async with (
        wire(one, "runs", task_queues=["runs"], capacity=capacity(runs=1)) as runs,
        wire(one, "acts", capacity=capacity(activities=1)) as acts,
    ):
        code = Code(runs, await runs.task(RUN))
        (ordinal,) = (await code.tell(code.activity(task_queue="q"))).ordinals
        session = next(each for each in one.service.dispatcher.sessions.values() if each.hello.worker_id == "acts")
        await until(lambda: session.held)
        await given_up(code, ordinal)
        await until(lambda: not session.held)
        may_read.set()
        await acts.settled()
        assert not acts.got.get("assigns")
        assert not acts.got.get("cancels")
        await scheduled(one)
        assert (await acts.task(ACTIVITY)).attempt == 1


async def test_a_terminated_run_is_revoked(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        task = await stream.task(RUN)
        await one.end(run_id)
        revoked = await stream.next("revokes")
        assert (revoked.ref, revoked.reason) == (task.ref, "RUN_ENDED")
        assert error_reason(await Code(stream, task).complete()) == "LEASE_LOST"


async def test_code_that_changed_is_refused_and_the_run_revoked(one: Replica) -> None:
    await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.tell(code.local(1, "first"))
        other = Code(stream, code.task)
        assert error_reason(await other.tell(other.local(1, "different"))) == "STEP_ORDER_CHANGED"
        assert (await stream.next("revokes")).reason == "RUN_PAUSED"
