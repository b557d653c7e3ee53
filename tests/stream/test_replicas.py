"""Two replicas on one database: any of them serves any call and any stream."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest_asyncio
from tests.stream.code import Code, scheduled
from tests.stream.kit import ACCEPTED, ACTIVITY, DUPLICATE, RUN, Replica, capacity, hello, payload, replica, until
from tests.stream.wire import Wire, wire

from stepwell.v1 import workers_pb2
from stepwell.v1.workers_pb2 import CompleteActivity
from stepwell_server.store.faults import Rejected

Two = tuple[Replica, Replica]


async def test_an_end_on_one_replica_advances_a_run_on_the_other_by_a_hint(far: Two) -> None:
    """At once: neither looks by itself for ten minutes."""
    first, second = far
    await first.start(queue="runs")
    async with (
        wire(first, "runs", task_queues=["runs"], capacity=capacity(runs=1)) as runs,
        wire(second, "acts", capacity=capacity(activities=1)) as acts,
    ):
        code = Code(runs, await runs.task(RUN))
        await code.wait(code.activity(task_queue="q"))
        task = await acts.task(ACTIVITY)
        await acts.complete(task, 42)
        (step,) = (await code.advance()).steps
        assert step.result.json == "42"


async def test_news_whose_hint_was_lost_are_told_with_the_next(two: Two) -> None:
    """What the other replica ended is found missing when this one ends something, not never."""
    first, second = two
    run_id = await first.start(queue="runs")
    async with (
        wire(first, "runs", task_queues=["runs"], capacity=capacity(runs=1)) as runs,
        wire(second, "acts", capacity=capacity(activities=1)) as acts,
    ):
        code = Code(runs, await runs.task(RUN))
        await code.wait(code.activity(task_queue="q"), code.wait_for("go"))
        second.service.dispatcher.pushes.start(None)
        await acts.complete(await acts.task(ACTIVITY), 42)
        await first.signal(run_id, "go")
        heard: set[str] = set()
        while len(heard) < 2:
            heard |= {step.name for step in (await code.advance()).steps}
        assert heard == {"a", "wait go"}


async def test_news_whose_hint_was_lost_are_found_by_looking(looks_often: None, two: Two) -> None:
    first, second = two
    await first.start(queue="runs")
    async with (
        wire(first, "runs", task_queues=["runs"], capacity=capacity(runs=1)) as runs,
        wire(second, "acts", capacity=capacity(activities=1)) as acts,
    ):
        code = Code(runs, await runs.task(RUN))
        await code.wait(code.activity(task_queue="q"))
        second.service.dispatcher.pushes.start(None)
        await acts.complete(await acts.task(ACTIVITY), 42)
        assert [step.name for step in (await code.advance()).steps] == ["a"]


async def test_a_look_that_the_database_refuses_is_not_the_last(looks_often: None, two: Two) -> None:
    first, second = two
    dispatcher, refused = first.service.dispatcher, asyncio.Event()
    reconcile = dispatcher._upkeep.reconcile

    async def watched() -> None:
        try:
            await reconcile()
        except Rejected:
            refused.set()
            raise

    dispatcher._upkeep.reconcile = watched  # type: ignore[method-assign]
    await first.start(queue="runs")
    async with (
        wire(first, "runs", task_queues=["runs"], capacity=capacity(runs=1)) as runs,
        wire(second, "acts", capacity=capacity(activities=1)) as acts,
    ):
        code = Code(runs, await runs.task(RUN))
        await code.wait(code.activity(task_queue="q"))
        task = await acts.task(ACTIVITY)
        async with dispatcher.reader.connection() as connection:
            # A role that may read nothing.
            await connection.raw.execute("SET ROLE pg_signal_backend")
        await refused.wait()
        async with dispatcher.reader.connection() as connection:
            await connection.raw.execute("RESET ROLE")
        second.service.dispatcher.pushes.start(None)
        assert (await acts.complete(task, 42)).status == ACCEPTED
        assert [step.name for step in (await code.advance()).steps] == ["a"]


async def test_cancel_and_revoke_reach_a_worker_of_the_other_replica(two: Two) -> None:
    first, second = two
    run_id = await first.start(queue="runs")
    async with (
        wire(first, "runs", task_queues=["runs"], capacity=capacity(runs=1)) as runs,
        wire(second, "acts", capacity=capacity(activities=1)) as acts,
    ):
        code = Code(runs, await runs.task(RUN))
        await code.wait(code.activity(task_queue="q"))
        task = await acts.task(ACTIVITY)
        await second.cancel(run_id, "enough")
        assert (await code.advance()).cancel_requested
        await second.end(run_id)
        assert (await acts.next("cancels")).ref == task.ref
        assert (await runs.next("revokes")).ref == code.task.ref


async def test_a_task_of_one_replica_wakes_a_worker_of_the_other(far: Two) -> None:
    """By a hint, since the poll is far away."""
    first, second = far
    async with wire(second, capacity=capacity(runs=1)) as stream:
        await stream.settled()
        run_id = await first.start()
        assert (await stream.task(RUN)).run_id == run_id


async def test_a_session_goes_on_at_the_other_replica(two: Two) -> None:
    first, second = two
    await scheduled(first, 2)
    run_id = await first.start()
    async with wire(first, capacity=capacity(activities=2, runs=1)) as stream:
        tasks = [await stream.task(ACTIVITY) for _ in range(2)]
        code = Code(stream, await stream.task(RUN))
        await code.wait(code.wait_for("go"))
        done = {"complete": CompleteActivity(result=payload(1))}
        assert (await stream.report(tasks[0].ref, **done)).status == ACCEPTED
        held = [tasks[1].ref, code.task.ref]
        opening = hello(session_id=stream.welcome.session_id, held=held, capacity=capacity(activities=2, runs=1))
        again = await Wire(second, opening).open()
        assert len(again.welcome.held) == 2
        assert (await again.report(tasks[0].ref, **done)).status == DUPLICATE
        assert (await again.complete(tasks[1])).status == ACCEPTED
        await first.signal(run_id, "go")
        code.stream = again
        await code.advance()
        await stream.end()
        await again.cut()


async def test_the_replica_that_a_worker_left_takes_nothing_from_it(database_url: str) -> None:
    """An acknowledgement lost with the stream: the old replica must not return what the new one was told of."""
    async with replica(database_url, ack_seconds=1.0) as first, replica(database_url, ack_seconds=1.0) as second:
        await first.service.hints.wait_company()
        await second.service.hints.wait_company()
        run_id = await scheduled(first)
        async with wire(first, capacity=capacity(activities=1)) as stream:
            task = await stream.task(ACTIVITY, ack=False)
            again = await Wire(second, hello(session_id=stream.welcome.session_id, held=[task.ref])).open()
            assert again.welcome.held
            await stream.end()
            # The time to acknowledge passes on the replica that was left, and nothing may come of it.
            await asyncio.sleep(1.5)
            assert (await again.complete(task)).status == ACCEPTED
            await again.cut()
        assert await second.count(run_id, "ActivityReturned") == 0


async def test_a_leader_s_expiry_reaches_the_worker_of_another_replica(two: Two) -> None:
    first, second = two
    run_id = await scheduled(first)
    async with wire(second, "frozen", is_lively=False, capacity=capacity(activities=1)) as frozen:
        task = await frozen.task(ACTIVITY)
        async with wire(first, "other", capacity=capacity(activities=1)) as other:
            again = await other.task(ACTIVITY)
            assert again.attempt == task.attempt + 1
            await frozen.say(heartbeats=[workers_pb2.TaskHeartbeat(ref=task.ref)])
            await frozen.end()
            assert (await other.complete(again)).status == ACCEPTED
    assert await first.count(run_id, "ActivityCompleted") == 1


@pytest_asyncio.fixture
async def patient(database_url: str) -> AsyncIterator[Two]:
    """Two replicas that take no task back from a worker that is merely slow."""
    terms = {"ack_seconds": 20.0, "session_seconds": 60.0}
    async with replica(database_url, **terms) as first, replica(database_url, **terms) as second:
        yield first, second


async def test_64_claimers_on_two_replicas_never_share_a_task(patient: Two) -> None:
    two, tasks = patient, 600
    for _ in range(2):
        await scheduled(two[0], tasks // 2)
    seen: Counter[tuple[str, int]] = Counter()

    async def by_stream(place: int) -> None:
        async with wire(two[place % 2], f"stream {place}", capacity=capacity(activities=3)) as stream:
            while seen.total() < tasks:
                try:
                    task = await stream.task(ACTIVITY, ack=False)
                except TimeoutError:
                    return
                seen[task.run_id, task.step_ordinal] += 1
                assert (await stream.complete(task)).status == ACCEPTED

    async def by_calls(place: int) -> None:
        stub = two[place % 2].workers
        opened = await stub.OpenSession(workers_pb2.OpenSessionRequest(hello=hello(f"unary {place}")))
        session_id = opened.welcome.session_id
        while seen.total() < tasks:
            claim = workers_pb2.ClaimTasksRequest(session_id=session_id, max_tasks=3)
            claim.wait.FromMilliseconds(200)
            claimed = (await stub.ClaimTasks(claim)).tasks
            for task in claimed:
                seen[task.run_id, task.step_ordinal] += 1
            if not claimed:
                continue
            done = [
                workers_pb2.Report(correlation=number, ref=task.ref, complete=CompleteActivity())
                for number, task in enumerate(claimed)
            ]
            answer = await stub.ReportTasks(workers_pb2.ReportTasksRequest(session_id=session_id, reports=done))
            assert {result.status for result in answer.results} == {ACCEPTED}

    claimers = [asyncio.create_task(by_stream(place) if place % 4 else by_calls(place)) for place in range(64)]
    await until(lambda: seen.total() >= tasks or any(each.done() for each in claimers), seconds=120)
    for claimer in claimers:
        claimer.cancel()
    outcomes = await asyncio.gather(*claimers, return_exceptions=True)
    assert not [each for each in outcomes if isinstance(each, Exception)]
    assert len(seen) == tasks
    assert set(seen.values()) == {1}
