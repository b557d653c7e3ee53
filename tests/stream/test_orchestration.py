"""What the stores' own engines ask of orchestration, by calls: assay's D3, 1 to 9, and stem's I2, by number."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from tests.stream.calls import Caller, code_of
from tests.stream.kit import ACCEPTED, ACTIVITY, RUN, Replica, payload, replica

from stepwell.v1 import runs_pb2, types_pb2, workers_pb2
from stepwell.v1.workers_pb2 import CompleteActivity, FailActivity

AT_ONCE = types_pb2.RetryPolicy(maximum_attempts=3, initial_interval=Duration())
NOTHING_YET = 0.05
"""How long a claim waits where there must be nothing: however slow the machine, it gets nothing."""


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Replica]:
    """A replica that has patience with its workers: what they have stays theirs, however slow the machine is."""
    async with replica(database_url, session_seconds=600.0, ack_seconds=300.0) as made:
        yield made


async def of_activities(one: Replica, run_id: str) -> list[tuple[str, str]]:
    """The types of a run's events that are about its activities, each with its payload."""
    return [(event.type, event.payload.json) for event in await one.events(run_id) if event.type.startswith("Activity")]


async def test_an_activity_is_in_history_and_advances_its_run_once(one: Replica) -> None:
    """Assay D3: 1, 3, 5, 6, 7 and 9."""
    run_id = await one.start(input=payload({"a": 1}))
    assert [event.type for event in await one.events(run_id)] == ["RunStarted"]
    caller, other = await Caller.of(one), await Caller.of(one, "other")
    (task,) = await caller.claim(kind=RUN)
    assert (task.run_id, task.type, task.input.json) == (run_id, "wf", '{"a": 1}')
    assert await other.claim(NOTHING_YET, kind=RUN) == []
    code = code_of(caller, task)
    assert (await code.wait(code.activity("send"))).status == ACCEPTED
    assert await of_activities(one, run_id) == [("ActivityScheduled", "")]
    # It waits: there is nothing new for it, whoever asks.
    assert await other.claim(NOTHING_YET, kind=RUN) == []
    (activity,) = await caller.claim(kind=ACTIVITY)
    assert (activity.step_name, activity.run_id) == ("send", run_id)
    await caller.report(activity.ref, complete=CompleteActivity(result=payload(42)))
    (completed,) = [event for event in await one.events(run_id) if event.type == "ActivityCompleted"]
    assert (completed.payload.json, completed.step_ordinal) == ("42", activity.step_ordinal)
    (code.task,) = await caller.claim(kind=RUN)
    assert (await code.complete(value={"steps": 0})).status == ACCEPTED
    assert (await one.run(run_id)).result.json == '{"steps": 0}'
    assert await other.claim(NOTHING_YET) == []


async def test_an_end_while_the_run_is_held_is_not_lost(one: Replica) -> None:
    """Assay D3: 8. The run is given back without a word, and comes again with what it has not seen."""
    run_id = await one.start()
    caller = await Caller.of(one)
    code = code_of(caller, (await caller.claim(kind=RUN))[0])
    assert (await code.tell(code.activity("send"))).status == ACCEPTED
    (activity,) = await caller.claim(kind=ACTIVITY)
    await caller.report(activity.ref, complete=CompleteActivity(result=payload(42)))
    await caller.report(code.task.ref, release=workers_pb2.ReleaseTask())
    (again,) = await caller.claim(kind=RUN)
    assert (again.run_id, [step.result.json for step in again.steps]) == (run_id, ["42"])


async def test_an_activity_fails_for_good_after_its_last_attempt(one: Replica) -> None:
    """Assay D3: 4."""
    run_id = await one.start()
    caller = await Caller.of(one)
    code = code_of(caller, (await caller.claim(kind=RUN))[0])
    assert (await code.wait(code.activity("send", retry=AT_ONCE))).status == ACCEPTED
    numbers: list[int] = []
    for attempt in (1, 2, 3):
        assert await one.count(run_id, "ActivityFailed") == 0
        (task,) = await caller.claim(kind=ACTIVITY)
        assert task.attempt == attempt
        numbers.append(task.step_ordinal)
        failed = FailActivity(failure=types_pb2.Failure(message=f"no {attempt}", type="Broken"))
        assert (await caller.report(task.ref, fail=failed)).status == ACCEPTED
    assert len(set(numbers)) == 1
    assert await one.count(run_id, "ActivityFailed") == 1
    assert await caller.claim(NOTHING_YET, kind=ACTIVITY) == []
    (step,) = (await one.runs.ListRunSteps(runs_pb2.ListRunStepsRequest(run_id=run_id))).steps
    assert (step.state, step.attempt, step.failure.message) == (types_pb2.STEP_STATE_FAILED, 3, "no 3")


async def test_an_event_brings_its_run_to_the_runs_own_queue(one: Replica) -> None:
    """Stem I2: 5. Wherever it was started and the event published."""
    queues: dict[str, Any] = {name: await Caller.of(one, name, task_queues=[name]) for name in ("its", "another")}
    run_id = await one.start(queue="its")
    code = code_of(queues["its"], (await queues["its"].claim(kind=RUN))[0])
    assert (await code.wait(code.wait_on("paid"))).status == ACCEPTED
    await one.publish("paid", {"amount": 5})
    (again,) = await queues["its"].claim(kind=RUN)
    assert (again.run_id, again.task_queue, [step.result.json for step in again.steps]) == (
        run_id,
        "its",
        ['{"amount": 5}'],
    )
    await queues["its"].report(again.ref, release=workers_pb2.ReleaseTask())
    assert await queues["another"].claim(NOTHING_YET, kind=RUN) == []
