"""Retry policies of runs over the wire: read back as they are, and refused where they come in, whoever sends them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from tests.service import refusal
from tests.stream.code import Code
from tests.stream.kit import ACCEPTED, DUPLICATE, RUN, SECONDS, Replica, capacity, error_reason
from tests.stream.wire import wire

from stepwell.v1 import run_store_pb2, runs_pb2, schedules_pb2, types_pb2, workers_pb2
from stepwell.v1.schedules_pb2_grpc import ScheduleServiceStub

Policy: Any = types_pb2.RetryPolicy
BAD: list[tuple[Any, str]] = [
    (Policy(backoff_coefficient=0.5), "retry.backoff_coefficient"),
    (Policy(backoff_coefficient=math.nan), "retry.backoff_coefficient"),
    (Policy(backoff_coefficient=1e9), "retry.backoff_coefficient"),
    (Policy(maximum_attempts=-1), "retry.maximum_attempts"),
    (Policy(maximum_attempts=1_000_001), "retry.maximum_attempts"),
    (Policy(initial_interval={"seconds": -1}), "retry.initial_interval"),
    (Policy(maximum_interval={"seconds": 10**10}), "retry.maximum_interval"),
    (Policy(non_retryable_types=["A", ""]), "retry.non_retryable_types[1]"),
    (Policy(non_retryable_types=["a\0b"]), "retry.non_retryable_types[0]"),
    (Policy(non_retryable_types=["x" * 256]), "retry.non_retryable_types[0]"),
    (Policy(non_retryable_types=[str(n) for n in range(257)]), "retry.non_retryable_types"),
]
FAIL = workers_pb2.FailRun(failure=types_pb2.Failure(message="no", type="Broken"))
WHOLE = Policy(
    initial_interval={"seconds": 5},
    backoff_coefficient=3,
    maximum_interval={"seconds": 60},
    maximum_attempts=7,
    non_retryable_types=["Final"],
)


@pytest_asyncio.fixture
async def schedules(one: Replica) -> AsyncIterator[Any]:
    yield ScheduleServiceStub(one.channel)


async def field_of(call: Any) -> str:
    """The field that a refusal names."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(error.value.details()).split(" ")[1]


def start(policy: types_pb2.RetryPolicy | None = None, **fields: Any) -> runs_pb2.StartRunRequest:
    return runs_pb2.StartRunRequest(**{"type": "wf", "task_queue": "q", "retry": policy, **fields})


@pytest.mark.parametrize(("policy", "field"), BAD)
async def test_bad_policies_are_refused_where_they_come_in(
    one: Replica,
    schedules: Any,
    policy: types_pb2.RetryPolicy,
    field: str,
) -> None:
    """By every call that takes one, with the path of the field; nothing is started."""
    assert await field_of(one.runs.StartRun(start(policy))) == field
    batch = runs_pb2.BatchStartRunsRequest(requests=[start(type="fits"), start(policy)])
    fits, bad = (await one.runs.BatchStartRuns(batch)).results
    assert fits.HasField("started")
    assert f"requests[1].{field}" in bad.error.message
    both = runs_pb2.SignalWithStartRunRequest(start=start(policy, workflow_id="w"), signal_name="s")
    assert await field_of(one.runs.SignalWithStartRun(both)) == f"start.{field}"
    schedule = schedules_pb2.Schedule(name="n", spec=schedules_pb2.ScheduleSpec(cron="@daily"), run=start(policy))
    made = schedules_pb2.CreateScheduleRequest(schedule=schedule)
    assert await field_of(schedules.CreateSchedule(made)) == f"schedule.run.{field}"
    listed = (await one.runs.ListRuns(runs_pb2.ListRunsRequest())).runs
    assert [run.type for run in listed] == ["fits"]


async def test_a_childs_bad_policy_is_refused(one: Replica) -> None:
    """With its place among the steps; the parent goes on."""
    await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        child = workers_pb2.ChildStep(type="wf", retry=Policy(maximum_attempts=-1))
        progress = workers_pb2.Progress(
            scopes=[workers_pb2.ScopeState(hash=bytes(8))], steps=[workers_pb2.NewStep(name="c", child=child)]
        )
        result = await stream.report(code.task.ref, progress=progress)
        assert error_reason(result) == "INVALID_FIELD"
        assert "steps[0].child.retry.maximum_attempts" in result.error.message
        child = workers_pb2.ChildStep(type="other", retry=WHOLE)
        assert (await code.tell(code.step("c", child=child))).status == ACCEPTED
    (run,) = (await one.runs.ListRuns(runs_pb2.ListRunsRequest(type="other"))).runs
    assert run.retry == WHOLE


async def test_a_policy_is_read_back(one: Replica) -> None:
    """As it was given, with defaults for what was not; a run without one has none, and is in its first attempt."""
    whole = await one.run(await one.start(retry=WHOLE))
    assert (whole.retry, whole.attempt) == (WHOLE, 1)
    plain = await one.run(await one.start(retry=Policy()))
    assert plain.retry == Policy(
        initial_interval={"seconds": 1}, backoff_coefficient=2, maximum_interval={"seconds": 100}
    )
    none = await one.run(await one.start())
    assert (none.HasField("retry"), none.HasField("last_failure"), none.attempt) == (False, False, 1)


async def test_a_delayed_start_shows_when_it_may_begin(one: Replica) -> None:
    """As a delayed attempt does."""
    run = await one.run(await one.start(start_delay={"seconds": 60}))
    assert (run.begin_time.ToDatetime() - run.create_time.ToDatetime()).total_seconds() == 60


async def test_the_policy_is_part_of_the_request(one: Replica) -> None:
    """The same request id with another policy is another request."""
    first = await one.start(retry=WHOLE, request_id="r")
    assert await one.start(retry=WHOLE, request_id="r") == first
    again = one.runs.StartRun(start(Policy(), request_id="r"), timeout=SECONDS)
    assert (await refusal(again))[1] == "REQUEST_ID_REUSED"


async def test_a_report_of_failure_sent_twice(one: Replica) -> None:
    """It is a duplicate while the run waits and when it is at work again, in the hands of the same worker too."""
    run_id = await one.start(retry=Policy(initial_interval={}, maximum_attempts=2))
    async with wire(one, capacity=capacity(runs=1)) as stream:
        task = await stream.task(RUN)
        assert (task.run_attempt, task.attempt) == (1, 1)
        failing = Code(stream, task).progress(fail=FAIL)
        assert (await stream.report(task.ref, progress=failing)).status == ACCEPTED
        second = await stream.task(RUN)
        assert (second.run_attempt, second.attempt, second.run_id) == (2, 2, run_id)
        assert (await stream.report(task.ref, progress=failing)).status == DUPLICATE
        assert (await Code(stream, second).complete()).status == ACCEPTED
        assert error_reason(await stream.report(task.ref, progress=failing)) == "LEASE_LOST"
    assert await one.count(run_id, "RunAttemptFailed") == 1


def test_driven_runs_have_no_policy() -> None:
    """Their engine begins them anew when it thinks fit: a request to create one has no field for it."""
    assert "retry" not in run_store_pb2.CreateRunRequest.DESCRIPTOR.fields_by_name
