"""Tasks for people as a worker sees them: what it asks for, and what it hears of them, pushed over its stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tests.people.kit import CANCELLED, People
from tests.people.kit import json as payload
from tests.stream.code import Code
from tests.stream.kit import ACCEPTED, REFUSED, RUN, Replica, capacity, error_reason, replica
from tests.stream.wire import wire

from stepwell.v1 import types_pb2, workers_pb2

# Nothing is looked for but what somebody was told of.
UNASKED = {"dispatch_poll_seconds": 600.0, "mail_poll_seconds": 600.0}


def asking(code: Code, timeout: float | None = None, **spec: Any) -> workers_pb2.NewStep:
    step = workers_pb2.UserTaskStep(spec={"assigned_role_id": "clerk", **spec})  # type: ignore[arg-type]
    if timeout is not None:
        step.timeout.FromMilliseconds(int(timeout * 1000))
    return code.step("approve", user_task=step)


async def test_a_completion_is_pushed_to_another_replica_s_worker(database_url: str) -> None:
    """Who holds the run hears at once, and by nobody's looking."""
    async with replica(database_url, **UNASKED) as first, replica(database_url, **UNASKED) as second:
        for each in (first, second):
            await each.service.hints.wait_company()
        await first.start()
        async with wire(first, capacity=capacity(runs=1)) as stream:
            code = Code(stream, await stream.task(RUN))
            assert (await code.wait(asking(code, input=payload('{"n":1}')))).status == ACCEPTED
            people = People(second)
            (task,) = (await people.call("ListInbox", role_ids=["clerk"])).user_tasks
            assert (task.spec.input.json, task.step_ordinal) == ('{"n":1}', 1)
            await people.call("ClaimUserTask", task_id=task.task_id, user_id="ann")
            await people.call("CompleteUserTask", task_id=task.task_id, user_id="ann", output=payload("7"))
            (step,) = (await code.advance(lambda news: bool(news.steps))).steps
            assert (step.kind, step.state) == (types_pb2.STEP_KIND_USER_TASK, types_pb2.STEP_STATE_COMPLETED)
            assert (json.loads(step.result.json), step.timed_out) == (7, False)
            assert (await code.complete()).status == ACCEPTED


async def test_time_and_people_who_cancel_are_told_apart(one: Replica) -> None:
    run_id, people = await one.start(), People(one)
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.wait(asking(code, timeout=0.1))
        (late,) = (await code.advance(lambda news: bool(news.steps))).steps
        assert (late.state, late.timed_out) == (types_pb2.STEP_STATE_COMPLETED, True)
        await code.wait(asking(code))
        (task,) = (await people.call("ListInbox", role_ids=["clerk"])).user_tasks
        await people.call("CancelUserTask", task_id=task.task_id, reason="no")
        (told,) = (await code.advance(lambda news: bool(news.steps))).steps
        assert (told.state, told.failure.type, told.failure.message) == (
            types_pb2.STEP_STATE_FAILED,
            "UserTaskCancelled",
            "no",
        )
        await code.wait(asking(code))
        (task,) = (await people.call("ListInbox", role_ids=["clerk"])).user_tasks
        await one.end(run_id)
        assert (await people.get(task.task_id)).status == CANCELLED


@pytest.mark.parametrize(
    ("field", "step"),
    [
        ("spec.title", {"spec": {"title": "\0"}}),
        ("spec.assigned_role_id", {"spec": {"assigned_role_id": "x" * 256}}),
        ("spec.priority", {"spec": {"priority": 9}}),
        ("spec.signal_name", {"spec": {"signal_name": "s"}}),
        ("spec.input", {"spec": {"input": types_pb2.Payload(json='"' + "x" * 2_200_000 + '"')}}),
        ("spec.due_time", {"spec": {"due_time": Timestamp(seconds=-1)}}),
        ("due_after", {"due_after": Duration(seconds=-1)}),
        ("due_after", {"due_after": Duration(seconds=1), "spec": {"due_time": Timestamp(seconds=1)}}),
        ("timeout", {"timeout": Duration(seconds=-1)}),
    ],
)
async def test_a_bad_task_is_refused_by_its_field(one: Replica, field: str, step: dict[str, Any]) -> None:
    """And nothing of the progress is recorded."""
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        bad = code.step("approve", user_task=workers_pb2.UserTaskStep(**step))
        result = await code.wait(code.local(1), bad)
        assert (result.status, error_reason(result)) == (REFUSED, "INVALID_FIELD")
        assert f"user_task.{field}" in result.error.message
        assert not await one.count(run_id, "UserTaskCreated")
