"""Reports: each is answered for itself, recorded once, and refused from whoever does not hold the task."""

from __future__ import annotations

from typing import Any

import pytest
from tests.stream.code import Code, scheduled
from tests.stream.kit import ACCEPTED, ACTIVITY, DUPLICATE, REFUSED, RUN, Replica, capacity, error_reason, payload
from tests.stream.wire import wire

from stepwell.v1 import types_pb2, workers_pb2
from stepwell.v1.workers_pb2 import CancelledActivity, CompleteActivity, FailActivity, Report, TaskRef

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


async def test_what_one_commit_brings_comes_in_one_message(one: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to a progress, and the activity that it has begun: a message of its own for each would cost more."""
    messages: list[workers_pb2.ConnectResponse] = []
    await one.start()
    async with wire(one, capacity=capacity(runs=1, activities=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        take = stream._take

        def taken(message: workers_pb2.ConnectResponse) -> None:
            messages.append(message)
            take(message)

        monkeypatch.setattr(stream, "_take", taken)
        assert (await code.tell(code.activity())).status == ACCEPTED
        await stream.task(ACTIVITY)
    assert [len(message.assigns) for message in messages if message.results] == [1]
