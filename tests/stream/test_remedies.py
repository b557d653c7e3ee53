"""Refusals say what to do about them, and nothing stays with a worker that it can't get rid of."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.stream.calls import Caller
from tests.stream.code import Code
from tests.stream.kit import ACCEPTED, ACTIVITY, DUPLICATE, REFUSED, RUN, Replica, capacity, error_reason, payload
from tests.stream.wire import wire

from stepwell.v1 import jobs_pb2, types_pb2, workers_pb2
from stepwell.v1.workers_pb2 import CompleteActivity, FailActivity, ReleaseTask, ReportResult, TaskRef
from stepwell_server import errors
from stepwell_server.engine.activities import CompleteActivity as Complete
from stepwell_server.ids import uuid7

DROP, REPEAT, FAIL = ReportResult.REMEDY_DROP, ReportResult.REMEDY_REPEAT, ReportResult.REMEDY_FAIL
LARGE = payload("x" * 2_200_000)
DONE = CompleteActivity(result=payload(1))
UNRECORDABLE = FailActivity(failure=types_pb2.Failure(message="no", details=LARGE))


def remedy(result: ReportResult) -> int:
    assert result.status == REFUSED
    return result.remedy


def refusing(one: Replica, monkeypatch: pytest.MonkeyPatch, refusals: list[Exception]) -> None:
    """Lets completions of activities be refused so, one after the other."""
    submit = one.service.dispatcher.committers.submit

    async def refused(error: Exception) -> object:
        raise error

    def submitted(order: Any, *args: Any) -> Any:
        if isinstance(order, Complete) and refusals:
            return asyncio.ensure_future(refused(refusals.pop(0)))
        return submit(order, *args)

    monkeypatch.setattr(one.service.dispatcher.committers, "submit", submitted)


async def test_what_is_recorded_has_no_remedy(one: Replica) -> None:
    await one.start_job()
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        result = await stream.report(task.ref, complete=DONE)
        assert (result.status, result.remedy) == (ACCEPTED, ReportResult.REMEDY_UNSPECIFIED)
        assert not result.HasField("repeat_delay")


async def test_a_task_of_another_is_dropped(one: Replica) -> None:
    await one.start_job()
    async with wire(one, capacity=capacity(activities=1)) as stream:
        ref = (await stream.task(ACTIVITY)).ref
        assert remedy(await stream.report(TaskRef(task_id=ref.task_id, token=ref.token + 1), complete=DONE)) == DROP
        assert (await stream.report(ref, complete=DONE)).status == ACCEPTED


async def test_a_result_that_is_too_large_fails_its_activity(one: Replica) -> None:
    job_id = await one.start_job()
    async with wire(one, capacity=capacity(activities=1)) as stream:
        ref = (await stream.task(ACTIVITY)).ref
        result = await stream.report(ref, complete=CompleteActivity(result=LARGE))
        assert (error_reason(result), remedy(result)) == ("INVALID_FIELD", FAIL)
        failure = types_pb2.Failure(message=result.error.message, non_retryable=True)
        assert (await stream.report(ref, fail=FailActivity(failure=failure))).status == ACCEPTED
    assert "payload at most" in (await one.job_end(job_id)).failure.message


async def test_an_activity_whose_failure_is_refused_too_is_taken_back(one: Replica) -> None:
    """It is another worker's then, no attempt spent, and its place is free."""
    job_id = await one.start_job()
    async with wire(one, capacity=capacity(activities=1)) as stream:
        ref = (await stream.task(ACTIVITY)).ref
        assert remedy(await stream.report(ref, complete=CompleteActivity(result=LARGE))) == FAIL
        assert remedy(await stream.report(ref, fail=UNRECORDABLE)) == DROP
        again = await stream.task(ACTIVITY)
        assert (again.ref.task_id, again.ref.token, again.attempt) == (ref.task_id, ref.token + 1, 1)
        assert (await stream.report(again.ref, complete=DONE)).status == ACCEPTED
    assert (await one.job_end(job_id)).state == jobs_pb2.JOB_STATE_COMPLETED


async def test_a_run_whose_failure_is_refused_too_is_taken_back(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        task = await stream.task(RUN)
        large = Code(stream, task).progress(complete=workers_pb2.CompleteRun(result=LARGE))
        assert remedy(await stream.report(task.ref, progress=large)) == FAIL
        failed = workers_pb2.Progress(fail=workers_pb2.FailRun(failure=UNRECORDABLE.failure))
        assert remedy(await stream.report(task.ref, progress=failed)) == DROP
        again = await stream.task(RUN)
        assert again.ref.token == task.ref.token + 1
        await Code(stream, again).tell(complete=workers_pb2.CompleteRun(result=payload(1)))
    assert (await one.run(run_id)).phase == types_pb2.RUN_PHASE_COMPLETED
    returned = [each.attributes["reason"] for each in await one.events(run_id) if each.type == "RunReturned"]
    assert returned == ["report refused"]


async def test_what_passes_is_repeated_after_the_delay_told(one: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    await one.start_job()
    refusing(one, monkeypatch, [errors.DatabaseUnavailable(), errors.DatabaseContended(), errors.OutcomeUnknown()])
    async with wire(one, capacity=capacity(activities=1)) as stream:
        ref = (await stream.task(ACTIVITY)).ref
        for least in (1.0, 0.1, 1.0):
            result = await stream.report(ref, complete=DONE)
            assert remedy(result) == REPEAT
            assert least <= result.repeat_delay.ToMilliseconds() / 1000 <= 2 * least
        assert (await stream.report(ref, complete=DONE)).status == ACCEPTED


async def test_the_service_s_own_fault_is_borne_a_few_times(one: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the task is taken back: perhaps it is the worker's way to say it that the service fails at."""
    job_id = await one.start_job()
    refusing(one, monkeypatch, [errors.InternalError(error_id=uuid7()) for _ in range(6)])
    async with wire(one, capacity=capacity(activities=1)) as stream:
        ref = (await stream.task(ACTIVITY)).ref
        told = [remedy(await stream.report(ref, complete=DONE)) for _ in range(6)]
        assert told == [REPEAT] * 5 + [DROP]
        again = await stream.task(ACTIVITY)
        assert (again.ref.token, again.attempt) == (ref.token + 1, 1)
        assert (await stream.report(again.ref, complete=DONE)).status == ACCEPTED
    assert (await one.job_end(job_id)).state == jobs_pb2.JOB_STATE_COMPLETED


async def test_an_answer_that_can_not_be_read_is_told_so(one: Replica) -> None:
    """What was recorded is found a repeat; a report that nobody answers would be waited for."""
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await one.signal(run_id, "go")
        told = code.progress(code.wait_for("go"), waiting=True)
        async with one.service.dispatcher.reader.connection() as connection:
            # A role that may read nothing.
            await connection.raw.execute("SET ROLE pg_signal_backend")
        assert remedy(await stream.report(code.task.ref, progress=told)) == REPEAT
        async with one.service.dispatcher.reader.connection() as connection:
            await connection.raw.execute("RESET ROLE")
        result = await stream.report(code.task.ref, progress=told)
        assert (result.status, [step.name for step in result.steps]) == (DUPLICATE, ["wait go"])


async def test_by_calls_it_is_the_same(one: Replica) -> None:
    job_id = await one.start_job()
    caller = await Caller.of(one)
    (task,) = await caller.claim(kind=ACTIVITY)
    assert remedy(await caller.report(task.ref, complete=CompleteActivity(result=LARGE))) == FAIL
    assert remedy(await caller.report(task.ref, fail=UNRECORDABLE)) == DROP
    (again,) = await caller.claim(kind=ACTIVITY, wait=30.0)
    assert (again.ref.token, again.attempt) == (task.ref.token + 1, 1)
    assert (await caller.report(again.ref, complete=DONE)).status == ACCEPTED
    assert (await one.job_end(job_id)).state == jobs_pb2.JOB_STATE_COMPLETED


async def test_a_failure_of_no_task_at_all_disturbs_nobody(one: Replica) -> None:
    """By calls and on a stream."""
    await one.start_job()
    caller, nonsense = await Caller.of(one), TaskRef(task_id="nonsense", token=1)
    assert error_reason(await caller.report(nonsense, fail=UNRECORDABLE)) == "INVALID_FIELD"
    async with wire(one, capacity=capacity(activities=1)) as stream:
        assert error_reason(await stream.report(nonsense, fail=UNRECORDABLE)) == "INVALID_FIELD"
        assert (await stream.complete(await stream.task(ACTIVITY))).status == ACCEPTED


async def test_a_release_is_never_refused_for_its_words(one: Replica) -> None:
    await one.start_job()
    async with wire(one, capacity=capacity(activities=1)) as stream:
        ref = (await stream.task(ACTIVITY)).ref
        assert (await stream.report(ref, release=ReleaseTask(reason="\0" + "x" * 9_000))).status == ACCEPTED
        assert (await stream.task(ACTIVITY)).ref.token == ref.token + 1
