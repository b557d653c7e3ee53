"""The unary twins: the same tasks, the same rules, without a stream."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from tests.service import refusal
from tests.stream.calls import Caller, code_of
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
    payload,
    until,
)
from tests.stream.wire import wire

from stepwell.v1 import workers_pb2
from stepwell.v1.workers_pb2 import CompleteActivity
from stepwell_server.store.recall import read_session
from stepwell_server.store.sessions import condemn_sessions


async def test_a_run_and_its_activity_from_start_to_end_by_calls(one: Replica) -> None:
    run_id = await one.start()
    caller = await Caller.of(one)
    code = code_of(caller, (await caller.claim(kind=RUN))[0])
    assert (await code.wait(code.activity())).status == ACCEPTED
    (task,) = await caller.claim(kind=ACTIVITY)
    assert (await caller.report(task.ref, complete=CompleteActivity(result=payload(42)))).status == ACCEPTED
    assert (await caller.report(task.ref, complete=CompleteActivity(result=payload(42)))).status == DUPLICATE
    # A run that waits is nobody's: it comes again, with what it waited for.
    (again,) = await caller.claim(kind=RUN)
    assert [(step.name, step.result.json) for step in again.steps] == [("a", "42")]
    code.task = again
    assert (await code.complete(value="done")).status == ACCEPTED
    assert (await one.run(run_id)).result.json == '"done"'


async def test_streams_and_calls_take_from_one_queue(one: Replica) -> None:
    await scheduled(one, 6)
    caller = await Caller.of(one)
    claimed = await caller.claim(max_tasks=4)
    async with wire(one, capacity=capacity(activities=10)) as stream:
        pushed = [await stream.task(ACTIVITY) for _ in range(2)]
        ordinals = {task.step_ordinal for task in [*claimed, *pushed]}
        assert ordinals == set(range(1, 7))
        # Whoever holds it not is refused, by calls as on the stream.
        stolen = await caller.report(pushed[0].ref, complete=CompleteActivity())
        assert stolen.status == REFUSED
        assert error_reason(stolen) == "LEASE_LOST"
        assert error_reason(await stream.complete(claimed[0])) == "LEASE_LOST"


async def test_a_claim_waits_for_the_first_task(one: Replica) -> None:
    caller = await Caller.of(one)
    counters = one.service.database.counters
    before = counters.commits
    claim = asyncio.create_task(caller.claim(wait=10.0))
    await until(lambda: counters.commits > before)
    await one.start()
    (task,) = await claim
    assert task.kind == RUN


async def test_a_claim_answers_nothing_when_its_wait_is_over(one: Replica) -> None:
    assert await (await Caller.of(one)).claim(wait=0.1) == []


async def test_a_session_lives_as_long_as_its_claim_waits(one: Replica) -> None:
    async def end() -> datetime:
        (worker,) = (await one.workers.ListWorkers(workers_pb2.ListWorkersRequest())).workers
        return worker.expire_time.ToDatetime()  # type: ignore[no-any-return]

    caller = await Caller.of(one)
    claim = asyncio.create_task(caller.claim(wait=30.0))
    first = await end()
    await until(end, lambda told: told > first + timedelta(seconds=2.0))
    await one.start_job()
    (task,) = await claim
    assert (await caller.report(task.ref, complete=CompleteActivity())).status == ACCEPTED


async def test_what_was_claimed_for_a_caller_who_has_gone_goes_back(
    one: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, is_granted = one.service.dispatcher.reader, asyncio.Event()

    async def never(*_: Any) -> Any:
        is_granted.set()
        await asyncio.Event().wait()

    caller = await Caller.of(one)
    monkeypatch.setattr(reader, "assignments", never)
    claim = asyncio.create_task(caller.claim())
    run_id = await one.start()
    await is_granted.wait()
    claim.cancel()
    monkeypatch.undo()
    other = await Caller.of(one, "other")
    (task,) = await other.claim(wait=10.0)
    assert task.run_id == run_id


async def test_heartbeats_by_calls(one: Replica) -> None:
    run_id = await scheduled(one)
    caller = await Caller.of(one)
    (task,) = await caller.claim()
    beat = workers_pb2.TaskHeartbeat(ref=task.ref, details=payload("half"))
    answer = await caller.beat(beat)
    assert [(each.lost, each.cancel_requested) for each in answer.results] == [(False, False)]
    assert answer.HasField("session_expire_time")
    await one.cancel(run_id)
    answer = await caller.beat(beat)
    assert answer.results[0].cancel_requested
    stale = workers_pb2.TaskRef(task_id=task.ref.task_id, token=task.ref.token - 1)
    answer = await caller.beat(beat, workers_pb2.TaskHeartbeat(ref=stale))
    assert [each.lost for each in answer.results] == [False, True]
    other = await Caller.of(one, "other")
    assert [each.lost for each in (await other.beat(beat)).results] == [True]


async def test_a_session_that_no_call_names_expires_with_what_it_holds(one: Replica) -> None:
    await scheduled(one)
    other = await Caller.of(one, "other", activity_types=[])  # its time is over first
    caller = await Caller.of(one)
    (task,) = await caller.claim()
    async with wire(one, capacity=capacity(activities=1)) as stream:
        again = await stream.task(ACTIVITY)
        assert again.attempt == task.attempt + 1
    assert await refusal(caller.claim()) == ("NOT_FOUND", "SESSION_NOT_FOUND")
    assert await refusal(other.claim()) == ("NOT_FOUND", "SESSION_NOT_FOUND")


async def test_a_session_that_is_condemned_is_gone_before_its_row_is(one: Replica) -> None:
    """A call may come in between."""
    caller = await Caller.of(one)
    session_id, now = UUID(caller.session_id), datetime.max.replace(tzinfo=UTC)
    connection = await one.service.database.connect()
    try:
        assert await read_session(connection, session_id) is not None
        async with connection.transaction():
            assert await condemn_sessions(connection, [session_id], now) == [session_id]
            assert await read_session(connection, session_id) is None
    finally:
        await connection.close()


async def test_closing_a_session_returns_what_it_holds(one: Replica) -> None:
    await scheduled(one)
    caller = await Caller.of(one)
    (task,) = await caller.claim()
    request = workers_pb2.CloseSessionRequest(session_id=caller.session_id)
    assert (await one.workers.CloseSession(request)).closed
    assert not (await one.workers.CloseSession(request)).closed
    (again,) = await (await Caller.of(one, "other")).claim()
    assert (again.attempt, again.ref.token) == (1, task.ref.token + 1)


async def test_closing_a_stream_s_session_ends_the_stream(one: Replica) -> None:
    async with wire(one) as stream:
        request = workers_pb2.CloseSessionRequest(session_id=stream.welcome.session_id)
        assert (await one.workers.CloseSession(request)).closed
        assert await stream.end() == "FAILED_PRECONDITION"


async def test_another_namespace_s_session_is_not_found(one: Replica) -> None:
    other = await one.namespace("other")
    caller = await Caller.of(one)
    request = workers_pb2.ClaimTasksRequest(namespace=other, session_id=caller.session_id)
    assert await refusal(one.workers.ClaimTasks(request)) == ("NOT_FOUND", "SESSION_NOT_FOUND")


# --- many steps -------------------------------------------------------------------------------------------------------


async def test_2500_steps_are_read_in_pages_without_a_gap(one: Replica) -> None:
    await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        for start in range(0, 2500, 250):
            steps = [code.local(number, f"s{number}") for number in range(start, start + 250)]
            assert (await code.tell(*steps)).status == ACCEPTED
        await stream.report(code.task.ref, release=workers_pb2.ReleaseTask())
        again = await stream.task(RUN)
        assert again.more_steps
        steps_read = list(again.steps)
        pages = 0
        while True:
            request = workers_pb2.ListTaskStepsRequest(ref=again.ref, after_ordinal=steps_read[-1].ordinal)
            page = await one.workers.ListTaskSteps(request)
            steps_read += page.steps
            pages += 1
            if not page.more_steps:
                break
        assert pages > 1
        assert [step.ordinal for step in steps_read] == list(range(1, 2501))
        assert [step.result.json for step in steps_read] == [str(number) for number in range(2500)]
        stale = workers_pb2.ListTaskStepsRequest(ref=code.task.ref)
        assert await refusal(one.workers.ListTaskSteps(stale)) == ("FAILED_PRECONDITION", "LEASE_LOST")
        other = await one.namespace("other")
        foreign = workers_pb2.ListTaskStepsRequest(namespace=other, ref=again.ref)
        assert await refusal(one.workers.ListTaskSteps(foreign)) == ("FAILED_PRECONDITION", "LEASE_LOST")


async def test_a_run_of_great_payloads_is_assigned_in_messages_that_fit(one: Replica) -> None:
    """Any client takes 4 MiB: an input and the first step of 2 MiB each go by different messages."""
    great = "x" * 2_000_000
    await one.start(input=payload(great))
    channel_limit = 4 * 1024 * 1024
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        for name in ("a", "b", "c"):
            assert (await code.tell(code.local(great, name))).status == ACCEPTED
        await stream.report(code.task.ref, release=workers_pb2.ReleaseTask())
        again = await stream.task(RUN)
        assert again.ByteSize() < channel_limit
        assert again.more_steps
        read = list(again.steps)
        while len(read) < 3:
            after = read[-1].ordinal if read else 0
            request = workers_pb2.ListTaskStepsRequest(ref=again.ref, after_ordinal=after)
            read += (await one.workers.ListTaskSteps(request)).steps
        assert [step.name for step in read] == ["a", "b", "c"]


async def test_great_results_at_once_go_by_several_messages(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        for number in range(4):
            await one.signal(run_id, f"s{number}", "x" * 1_900_000)
        result = await code.tell(*[code.wait_for(f"s{number}") for number in range(4)], waiting=True)
        assert result.status == ACCEPTED
        heard = {step.name for step in result.steps}
        while len(heard) < 4:
            heard |= {step.name for step in (await code.advance()).steps}
        assert stream.ended is None
