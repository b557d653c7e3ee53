"""Jobs at workers: they come and go as activities do, on the stream and by calls, on one replica and on two."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from tests.stream.calls import Caller
from tests.stream.kit import (
    ACCEPTED,
    ACTIVITY,
    DUPLICATE,
    Replica,
    capacity,
    error_reason,
    hello,
    payload,
    replica,
    until,
)
from tests.stream.wire import Wire, wire

from stepwell.v1 import jobs_pb2, runs_pb2, types_pb2, workers_pb2
from stepwell.v1.workers_pb2 import CancelledActivity, CompleteActivity, FailActivity, ReleaseTask, TaskRef

COMPLETED, FAILED = jobs_pb2.JOB_STATE_COMPLETED, jobs_pb2.JOB_STATE_FAILED
CANCELLED, PENDING = jobs_pb2.JOB_STATE_CANCELLED, jobs_pb2.JOB_STATE_PENDING
Reason = runs_pb2.Run.TaskWait
AT_ONCE = types_pb2.RetryPolicy(initial_interval=Duration(nanos=1))
ONCE = types_pb2.RetryPolicy(maximum_attempts=1)
FAILURE = FailActivity(failure=types_pb2.Failure(message="no luck", type="ValueError"))


async def resumed(one: Replica, stream: Wire, *held: TaskRef) -> Wire:
    told = {"session_id": stream.welcome.session_id, "held": held, "capacity": stream.hello.capacity}
    return await Wire(one, hello(stream.hello.worker_id, **told)).open()


async def test_a_job_is_pushed_as_an_activity_and_ends_with_its_result(one: Replica) -> None:
    """Its task names the job and no run; nothing is left of it but its closed row."""
    async with wire(one, capacity=capacity(activities=1)) as stream:
        job_id = await one.start_job(input=payload({"n": 1}), heartbeat_timeout=Duration(seconds=5))
        task = await stream.task(ACTIVITY)
        assert (task.job_id, task.run_id, task.workflow_id, task.step_name) == (job_id, "", "", "")
        assert (task.type, task.task_queue, task.attempt, task.input.json) == ("act", "q", 1, '{"n": 1}')
        assert task.heartbeat_timeout.seconds == 5
        assert task.traceparent
        assert (await stream.complete(task, "done")).status == ACCEPTED
        job = await one.job_end(job_id)
        assert (job.state, job.result.json, job.owner_id) == (COMPLETED, '"done"', stream.hello.worker_id)
        assert (await stream.complete(task, "done")).status == DUPLICATE
        assert await one.waiting() == 0


async def test_a_job_that_waits_is_claimed_with_its_input(one: Replica) -> None:
    """Nobody was there when it was started: it comes from the table, and so does what it was given."""
    job_ids = [await one.start_job(input=payload(place)) for place in range(3)]
    async with wire(one, capacity=capacity(activities=3)) as stream:
        tasks = [await stream.task(ACTIVITY) for _ in job_ids]
        assert {task.job_id: task.input.json for task in tasks} == {id_: f"{n}" for n, id_ in enumerate(job_ids)}


async def test_why_a_job_waits(one: Replica) -> None:
    """Nobody takes its type; somebody does and has no room; nothing is said once it is taken."""
    job_id = await one.start_job()
    wait = (await one.job(job_id)).task_wait
    assert (wait.reason, wait.details) == (Reason.REASON_NO_WORKER, "no live worker takes type act from queue q")
    assert wait.ready_time.seconds
    async with wire(one, capacity=capacity(activities=0)) as stream:
        await until(lambda: one.job(job_id), lambda job: job.task_wait.reason == Reason.REASON_NO_ROOM)
        await stream.say(capacity=capacity(activities=1))
        await stream.task(ACTIVITY)
        assert not (await one.job(job_id)).HasField("task_wait")
    listed = await one.jobs.ListJobs(jobs_pb2.ListJobsRequest())
    assert not any(each.HasField("task_wait") for each in listed.jobs)


async def test_a_job_is_taken_and_completed_by_calls(one: Replica) -> None:
    caller = await Caller.of(one)
    job_id = await one.start_job(input=payload(1))
    (task,) = await caller.claim()
    assert (task.job_id, task.input.json) == (job_id, "1")
    await one.cancel_job(job_id, "enough")
    answer = await caller.beat(workers_pb2.TaskHeartbeat(ref=task.ref))
    assert (answer.results[0].cancel_requested, answer.results[0].lost) == (True, False)
    complete = CompleteActivity(result=payload(2))
    assert (await caller.report(task.ref, complete=complete)).status == ACCEPTED
    assert (await caller.report(task.ref, complete=complete)).status == DUPLICATE
    assert (await one.job(job_id)).state == COMPLETED


async def test_a_failed_attempt_is_tried_again_with_the_details_it_left(one: Replica) -> None:
    job_id = await one.start_job(retry=AT_ONCE)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        await stream.beat(task, "half")
        assert (await one.job(job_id)).heartbeat_details.json == '"half"'
        assert (await stream.report(task.ref, fail=FAILURE)).status == ACCEPTED
        again = await stream.task(ACTIVITY)
        assert (again.attempt, again.heartbeat_details.json) == (2, '"half"')
        assert again.ref.token > task.ref.token
        assert (await one.job(job_id)).last_failure.type == "ValueError"
        assert error_reason(await stream.report(task.ref, complete=CompleteActivity())) == "LEASE_LOST"
        beat = await stream.beat(task)
        assert beat.lost
        await stream.complete(again)
        assert (await one.job_end(job_id)).attempt == 2


async def test_a_retried_job_knows_nothing_of_what_was_told_before(one: Replica) -> None:
    """It begins anew, however long ago the last heartbeat of its former life was."""
    job_id = await one.start_job(retry=ONCE)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        await stream.beat(task, "half")
        await stream.report(task.ref, fail=FAILURE)
        assert (await one.job_end(job_id)).state == FAILED
        await one.jobs.RetryJob(jobs_pb2.RetryJobRequest(job_id=job_id))
        anew = await stream.task(ACTIVITY)
        assert (anew.attempt, anew.ref.token) == (1, 2)
        assert not anew.HasField("heartbeat_details")
        assert not (await one.job(job_id)).HasField("heartbeat_time")
        await stream.complete(anew)


async def test_a_lost_worker_s_job_goes_to_another_with_its_details(one: Replica) -> None:
    """After the session has expired; what the lost one says afterwards changes nothing."""
    job_id = await one.start_job()
    async with wire(one, "first", capacity=capacity(activities=1)) as first:
        task = await first.task(ACTIVITY)
        await first.beat(task, "half")
        await first.cut()
        async with wire(one, "second", capacity=capacity(activities=1)) as second:
            again = await second.task(ACTIVITY)
            assert (again.job_id, again.attempt, again.heartbeat_details.json) == (job_id, 2, '"half"')
            caller = await Caller.of(one)
            answer = await caller.report(task.ref, complete=CompleteActivity())
            assert error_reason(answer) == "LEASE_LOST"
            await second.complete(again, "by the second")
        assert (await one.job(job_id)).result.json == '"by the second"'


async def test_a_lost_worker_s_last_attempt_fails_the_job(one: Replica) -> None:
    job_id = await one.start_job(retry=ONCE)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        await stream.task(ACTIVITY)
        await stream.settled()
        await stream.cut()
        job = await one.job_end(job_id)
        assert (job.state, job.failure.type) == (FAILED, "WorkerLost")


@pytest.mark.parametrize("how", ["released", "unacknowledged"])
async def test_a_job_that_was_not_begun_returns_without_an_attempt(one: Replica, how: str) -> None:
    await one.start_job(retry=ONCE)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY, ack=how == "released")
        if how == "released":
            assert (await stream.report(task.ref, release=ReleaseTask())).status == ACCEPTED
        else:
            assert (await stream.next("revokes")).reason == "ACK_TIMEOUT"
        again = await stream.task(ACTIVITY)
        assert (again.attempt, again.ref.token) == (1, task.ref.token + 1)


async def test_a_resumed_session_keeps_its_job_and_one_it_does_not_name_goes_back(one: Replica) -> None:
    kept_id, lost_id = await one.start_job(), await one.start_job()
    async with wire(one, capacity=capacity(activities=2)) as stream:
        kept, lost = await stream.task(ACTIVITY), await stream.task(ACTIVITY)
        await stream.settled()
        await stream.cut()
        again = await resumed(one, stream, kept.ref)
        assert list(again.welcome.held) == [kept.ref]
        back = await again.task(ACTIVITY)
        assert (back.job_id, back.attempt) == (lost.job_id, 2)
        assert (await again.complete(kept)).status == ACCEPTED
        assert {kept.job_id, lost.job_id} == {kept_id, lost_id}
        await again.cut()


# --- timeouts and delays ----------------------------------------------------------------------------------------------


async def test_a_job_without_a_heartbeat_times_out_and_is_taken_away(one: Replica) -> None:
    job_id = await one.start_job(heartbeat_timeout=Duration(nanos=300_000_000), retry=ONCE)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        revoke = await stream.next("revokes")
        assert (revoke.ref, revoke.reason) == (task.ref, "TIMED_OUT")
        job = await one.job_end(job_id)
        assert (job.state, job.failure.timeout_kind) == (FAILED, types_pb2.TIMEOUT_KIND_HEARTBEAT)


async def test_a_delayed_job_and_a_second_attempt_come_in_their_time(one: Replica) -> None:
    """Neither waits for a look that is far away: what was committed nudges the timers."""
    soon = Duration(nanos=700_000_000)
    job_id = await one.start_job(start_delay=soon, retry=types_pb2.RetryPolicy(initial_interval=soon))
    assert (await one.job(job_id)).state == PENDING
    assert await one.waiting() == 0
    async with wire(one, capacity=capacity(activities=1)) as stream:
        await stream.report((await stream.task(ACTIVITY)).ref, fail=FAILURE)
        await stream.complete(await stream.task(ACTIVITY))
        assert (await one.job_end(job_id)).state == COMPLETED


# --- cancellation -----------------------------------------------------------------------------------------------------


async def test_a_running_job_s_worker_is_told_to_stop_and_says_that_it_did(one: Replica) -> None:
    job_id = await one.start_job()
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        await one.cancel_job(job_id, "enough")
        cancel = await stream.next("cancels")
        assert (cancel.ref, cancel.reason) == (task.ref, "enough")
        assert (await one.job(job_id)).state == jobs_pb2.JOB_STATE_RUNNING
        assert (await stream.report(task.ref, cancelled=CancelledActivity())).status == ACCEPTED
        assert (await one.job_end(job_id)).state == CANCELLED


async def test_a_job_that_should_stop_ends_with_its_worker(one: Replica) -> None:
    """However many attempts it has left, it is not given to another."""
    job_id = await one.start_job()
    async with wire(one, capacity=capacity(activities=1)) as stream:
        await stream.task(ACTIVITY)
        await stream.settled()
        await one.cancel_job(job_id)
        await stream.cut()
        assert (await one.job_end(job_id)).state == CANCELLED


async def test_a_job_that_was_not_sent_yet_is_withdrawn_and_over(one: Replica, monkeypatch: Any) -> None:
    """Its worker never hears of it, and it does not wait for a session to expire."""
    read = one.service.dispatcher.reader.assignments
    go_on = asyncio.Event()

    async def slow(*arguments: Any) -> Any:
        await go_on.wait()
        return await read(*arguments)

    monkeypatch.setattr(one.service.dispatcher.reader, "at_hand", lambda _: None)
    monkeypatch.setattr(one.service.dispatcher.reader, "assignments", slow)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        job_id = await one.start_job()
        await until(lambda: one.job(job_id), lambda job: job.attempt == 1)
        await one.cancel_job(job_id)
        assert (await one.job_end(job_id)).state == CANCELLED
        go_on.set()
        await one.start_job()
        assert (await stream.task(ACTIVITY)).job_id != job_id
        assert not stream.got.get("cancels")


async def test_a_cancellation_reaches_a_worker_of_another_replica(two: tuple[Replica, Replica]) -> None:
    first, second = two
    job_id = await first.start_job()
    async with wire(second, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        await first.cancel_job(job_id)
        assert (await stream.next("cancels")).ref == task.ref


async def test_a_cancellation_whose_hint_was_lost_is_found_by_looking(two: tuple[Replica, Replica]) -> None:
    first, second = two
    first.service.dispatcher.pushes.start(None)
    job_id = await first.start_job()
    async with wire(second, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        await stream.settled()
        await first.cancel_job(job_id)
        await second.service.dispatcher._upkeep.reconcile()
        assert (await stream.next("cancels")).ref == task.ref
        await second.service.dispatcher._upkeep.reconcile()
        await stream.settled()
        assert not stream.got.get("cancels")


async def test_a_cancellation_while_the_stream_was_away_is_told_after_it_resumed(one: Replica) -> None:
    job_id = await one.start_job()
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        await stream.settled()
        await stream.cut()
        await until(lambda: not any(each.attached for each in one.service.dispatcher.sessions.values()))
        await one.cancel_job(job_id)
        again = await resumed(one, stream, task.ref)
        assert (await again.next("cancels")).ref == task.ref
        await again.cut()


# --- many -------------------------------------------------------------------------------------------------------------


async def test_claimers_of_two_replicas_never_share_a_job(database_url: str) -> None:
    """Sixteen workers take from a backlog of two hundred: each is given out once."""
    lasting = {"session_seconds": 90.0}
    async with replica(database_url, committers=2, **lasting) as first, replica(database_url, **lasting) as second:
        requests = [jobs_pb2.StartJobRequest(type="act", task_queue="q") for _ in range(200)]
        batch = jobs_pb2.BatchStartJobsRequest(requests=requests)
        started = [each.started.job_id for each in (await first.jobs.BatchStartJobs(batch)).results]
        callers = [await Caller.of(each, f"worker {n}") for n in range(8) for each in (first, second)]

        async def take(caller: Caller) -> list[str]:
            taken: list[str] = []
            while tasks := await caller.claim(wait=0.3, max_tasks=5):
                taken += [task.job_id for task in tasks]
                for task in tasks:
                    assert (await caller.report(task.ref, complete=CompleteActivity())).status == ACCEPTED
            return taken

        taken = [job_id for each in await asyncio.gather(*map(take, callers)) for job_id in each]
        assert sorted(taken) == sorted(started)
