"""StepStore: SquidMesh's and stem's contract cases by name, and what their own tests cannot tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.api.stores import RUNNING, SUSPENDED, Store, at, create, json, read
from tests.service import Service, refusal, serving

from stepwell.v1 import step_store_pb2, types_pb2

EXECUTE, SKIPPED = step_store_pb2.BeginStepResponse.OUTCOME_EXECUTE, step_store_pb2.BeginStepResponse.OUTCOME_SKIP
SCHEDULED, KNOWN = (
    step_store_pb2.ScheduleStepResponse.OUTCOME_SCHEDULE,
    step_store_pb2.ScheduleStepResponse.OUTCOME_SKIP,
)
STEP_PENDING, STEP_RUNNING, STEP_COMPLETED, STEP_FAILED = (
    types_pb2.STEP_STATE_PENDING,
    types_pb2.STEP_STATE_RUNNING,
    types_pb2.STEP_STATE_COMPLETED,
    types_pb2.STEP_STATE_FAILED,
)


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


@pytest.fixture
def store(service: Service) -> Store:
    return Store(service, "step")


@pytest_asyncio.fixture
async def run_id(service: Service) -> str:
    return await create(service)


def name(step: Any) -> str:
    return str(step.key or step.name)


async def saved(store: Store, run_id: str) -> list[tuple[str, str]]:
    return [(name(step), step.result.json) for step in await store.pages("ListSteps", "steps", run_id=run_id)]


# --- SquidMesh's contract ---------------------------------------------------------------------------------------------


async def test_squid_mesh_1_of_four_at_once_one_executes(service: Service, store: Store, database_url: str) -> None:
    """Over two replicas, ten times."""
    async with serving(database_url) as other:
        stores = (store, Store(other, "step"))
        for _ in range(10):
            run_id = await create(service)
            begins = [stores[place % 2].call("BeginStep", run_id=run_id, step_name="s") for place in range(4)]
            outcomes = [answer.outcome for answer in await asyncio.gather(*begins)]
            assert sorted(outcomes) == [EXECUTE, SKIPPED, SKIPPED, SKIPPED]


async def test_squid_mesh_2_schedule_then_begin(store: Store, run_id: str) -> None:
    first = await store.call("ScheduleStep", run_id=run_id, step_name="s", input=json("1"))
    assert (first.outcome, first.step.state) == (SCHEDULED, STEP_PENDING)
    again = await store.call("ScheduleStep", run_id=run_id, step_name="s", input=json("2"))
    assert (again.outcome, again.step) == (KNOWN, first.step)
    begun = await store.call("BeginStep", run_id=run_id, step_name="s", input=json("3"))
    assert (begun.outcome, begun.step.number, begun.step.state) == (EXECUTE, first.step.number, STEP_RUNNING)
    assert begun.step.input.json == "1"
    assert begun.step.HasField("start_time")
    late = await store.call("BeginStep", run_id=run_id, step_name="s")
    assert (late.outcome, late.step) == (SKIPPED, begun.step)


async def test_squid_mesh_3_what_is_completed_is_not_ended_again(store: Store, run_id: str) -> None:
    step = (await store.call("BeginStep", run_id=run_id, step_name="s")).step
    done = (await store.call("CompleteStep", step_number=step.number, result=json("1"))).step
    assert (done.state, done.result.json) == (STEP_COMPLETED, "1")
    for late in (
        store.call("FailStep", step_number=step.number, failure={"message": "no"}),
        store.call("CompleteStep", step_number=step.number, result=json("2")),
    ):
        assert await refusal(late) == ("FAILED_PRECONDITION", "STEP_STATE_CONFLICT")
    found = await store.call("GetStep", run_id=run_id, step_name="s")
    assert (found.found, found.step) == (True, done)


async def test_a_failed_step_begins_again_as_the_same_step(store: Store, run_id: str) -> None:
    """With the new input; its failure is gone, its attempts are counted."""
    step = (await store.call("BeginStep", run_id=run_id, step_name="s", input=json("1"))).step
    failed = (await store.call("FailStep", step_number=step.number, failure={"message": "boom"})).step
    assert (failed.state, failed.failure.message) == (STEP_FAILED, "boom")
    begins = [store.call("BeginStep", run_id=run_id, step_name="s", input=json("2")) for _ in range(3)]
    answers = await asyncio.gather(*begins)
    assert sorted(answer.outcome for answer in answers) == [EXECUTE, SKIPPED, SKIPPED]
    (begun,) = {answer.step.SerializeToString(deterministic=True) for answer in answers}
    again = type(step).FromString(begun)
    assert (again.number, again.input.json, again.attempt) == (step.number, "2", 2)
    assert not again.HasField("failure")
    done = (await store.call("CompleteStep", step_number=step.number, result=json("3"))).step
    assert (done.state, done.ordinal) == (STEP_COMPLETED, step.ordinal)


async def test_a_pending_step_is_not_ended(store: Store, run_id: str) -> None:
    step = (await store.call("ScheduleStep", run_id=run_id, step_name="s")).step
    assert (await refusal(store.call("CompleteStep", step_number=step.number)))[1] == "STEP_STATE_CONFLICT"
    unknown = store.call("CompleteStep", step_number=step.number + 1)
    assert await refusal(unknown) == ("NOT_FOUND", "STEP_NOT_FOUND")
    elsewhere = store.call("CompleteStep", step_number=step.number + (1 << 40))
    assert await refusal(elsewhere) == ("NOT_FOUND", "RUN_NOT_FOUND")


async def test_completed_steps_are_in_the_order_of_their_ends(store: Store, run_id: str) -> None:
    numbers = {}
    for step_name in "abc":
        numbers[step_name] = (await store.call("BeginStep", run_id=run_id, step_name=step_name)).step.number
    for step_name in "cab":
        await store.call("CompleteStep", step_number=numbers[step_name], result=json(f'"{step_name}"'))
    await store.call("BeginStep", run_id=run_id, step_name="d")
    listed = await store.pages("ListCompletedSteps", "steps", run_id=run_id, page_size=2)
    assert [(step.name, step.result.json) for step in listed] == [("c", '"c"'), ("a", '"a"'), ("b", '"b"')]
    entries = await store.pages("ListStepStates", "entries", run_id=run_id, page_size=3)
    states = {entry.step_name: entry.state for entry in entries}
    assert states == {**dict.fromkeys("abc", STEP_COMPLETED), "d": STEP_RUNNING}


async def test_reads_of_an_unknown_run_find_nothing(store: Store) -> None:
    assert not (await store.call("GetStep", workflow_id="none", step_name="s")).found
    assert not (await store.call("ReadStep", workflow_id="none", step_name="s")).found
    for method, field in (("ListSteps", "steps"), ("ListCompletedSteps", "steps"), ("ListStepStates", "entries")):
        assert await store.pages(method, field, workflow_id="none") == []


# --- stem's contract --------------------------------------------------------------------------------------------------


async def test_stem_5_save_step_read_step_rewind(service: Service, store: Store, run_id: str) -> None:
    for step_name, value in (("a", '{"value": 1}'), ("b", "2"), ("c", '"done"')):
        await store.call("SaveStep", run_id=run_id, step_name=step_name, value=json(value))
    rewound = await Store(service, "run").call("RewindToStep", run_id=run_id, step_name="b")
    assert (rewound.rewound, rewound.removed_count) == (True, 2)
    assert await saved(store, run_id) == [("a", '{"value": 1}')]
    assert not (await store.call("ReadStep", run_id=run_id, step_name="b")).found
    assert (await read(service, run_id)).cursor == 1


async def test_stem_6_save_step_refreshes_update_time(service: Service, store: Store, run_id: str) -> None:
    before = (await read(service, run_id)).update_time.ToNanoseconds()
    # So that the clock has moved on.
    await asyncio.sleep(0.002)
    await store.call("SaveStep", run_id=run_id, step_name="a")
    assert (await read(service, run_id)).update_time.ToNanoseconds() > before


async def test_stem_7_and_8_versioned_checkpoints(service: Service, store: Store, run_id: str) -> None:
    runs = Store(service, "run")
    for step_name in ("repeat#0", "repeat#1", "tail"):
        await store.call("SaveStep", run_id=run_id, step_name=step_name, value=json("1"))
    assert (await read(service, run_id)).cursor == 2
    assert [run.cursor for run in await runs.pages("ListDrivenRuns", "runs")] == [2]
    await runs.call("RewindToStep", run_id=run_id, step_name="repeat")
    run = await read(service, run_id)
    assert (run.cursor, run.phase, run.active_step) == (0, SUSPENDED, "repeat")
    assert await saved(store, run_id) == []
    (listed,) = await runs.pages("ListDrivenRuns", "runs")
    assert (listed.cursor, listed.phase) == (0, SUSPENDED)
    await runs.call("MarkRunRunning", run_id=run_id, step_name="repeat")
    await store.call("SaveStep", run_id=run_id, step_name="repeat#0", value=json("2"))
    assert await saved(store, run_id) == [("repeat#0", "2")]


async def test_stem_20_and_21_list_steps_in_execution_order(store: Store, run_id: str) -> None:
    """Beyond stem's own cases: names out of their alphabet, and a tenth occurrence."""
    names = ["z", "a", *(f"repeat#{number}" for number in range(11)), "b"]
    for place, step_name in enumerate(names):
        await store.call("SaveStep", run_id=run_id, step_name=step_name, value=json(str(place)))
    assert await saved(store, run_id) == [(step_name, str(place)) for place, step_name in enumerate(names)]
    listed = await store.pages("ListSteps", "steps", run_id=run_id, page_size=3)
    assert [name(step) for step in listed] == names
    assert all(step.HasField("end_time") for step in listed)


async def test_a_stored_null_is_told_from_a_missing_one(store: Store, run_id: str) -> None:
    await store.call("SaveStep", run_id=run_id, step_name="a")
    found = await store.call("ReadStep", run_id=run_id, step_name="a")
    assert (found.found, found.value.WhichOneof("body")) == (True, None)
    assert not (await store.call("ReadStep", run_id=run_id, step_name="b")).found


async def test_a_checkpoint_saved_again_keeps_its_place(store: Store, run_id: str) -> None:
    for step_name in "ab":
        await store.call("SaveStep", run_id=run_id, step_name=step_name, value=json("1"))
    again = await store.call("SaveStep", run_id=run_id, step_name="a", value=json("2"))
    assert again.replaced
    assert await saved(store, run_id) == [("a", "2"), ("b", "1")]
    saves = [store.call("SaveStep", run_id=run_id, step_name="a", value=json(str(value))) for value in range(8)]
    assert all(answer.replaced for answer in await asyncio.gather(*saves))
    assert len(await saved(store, run_id)) == 2


async def test_names_with_and_without_an_occurrence_are_different_steps(store: Store, run_id: str) -> None:
    for step_name in ("a", "a#0", "#", "#1"):
        assert not (await store.call("SaveStep", run_id=run_id, step_name=step_name, value=json("1"))).replaced
    assert [step_name for step_name, _ in await saved(store, run_id)] == ["a", "a#0", "#", "#1"]


async def test_rewinding_takes_open_steps_too_and_an_unknown_one_nothing(
    service: Service, store: Store, run_id: str
) -> None:
    runs = Store(service, "run")
    await store.call("SaveStep", run_id=run_id, step_name="a")
    begun = (await store.call("BeginStep", run_id=run_id, step_name="b")).step
    assert not (await runs.call("RewindToStep", run_id=run_id, step_name="none")).rewound
    assert (await read(service, run_id)).phase == RUNNING
    assert (await runs.call("RewindToStep", run_id=run_id, step_name="b")).removed_count == 1
    assert (await refusal(store.call("CompleteStep", step_number=begun.number)))[1] == "STEP_NOT_FOUND"
    again = await store.call("BeginStep", run_id=run_id, step_name="b")
    assert (again.outcome, again.step.ordinal) == (EXECUTE, begun.ordinal + 1)


async def test_activities_and_timers_are_no_steps_by_name(service: Service, store: Store, run_id: str) -> None:
    """They are known by their numbers: a step may be called as they are, and its rewind does not take it for them."""
    activities, timers, runs = (Store(service, noun) for noun in ("activity", "timer", "run"))
    for seq in (1, 2):
        await activities.call("CreateActivity", run_id=run_id, seq=seq, type="t")
        await timers.call("CreateTimer", run_id=run_id, seq=seq, fire_time=at(0))
    await timers.call("FireDueTimers", now=at(1))
    for _ in range(2):
        taken = await activities.call("ClaimActivity", task_queue="default", worker_id="w")
        await activities.call("CompleteActivity", activity_number=taken.activity.activity_number)
    for step_name in ("timer", "activity"):
        assert not (await runs.call("RewindToStep", run_id=run_id, step_name=step_name)).rewound
        await store.call("SaveStep", run_id=run_id, step_name=step_name, value=json("1"))
    assert [step_name for step_name, _ in await saved(store, run_id)] == ["timer", "activity"]
    states = await store.pages("ListStepStates", "entries", run_id=run_id)
    assert [entry.step_name for entry in states] == ["timer", "activity"]
    completed = await store.pages("ListCompletedSteps", "steps", run_id=run_id)
    assert [step.name for step in completed] == ["timer", "activity"]
    assert (await read(service, run_id)).cursor == 2
    assert (await runs.call("RewindToStep", run_id=run_id, step_name="activity")).removed_count == 1
    assert (await timers.call("GetTimer", run_id=run_id, seq=2)).found
