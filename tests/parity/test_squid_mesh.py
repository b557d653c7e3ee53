"""SquidMesh's `StepRunStore`, a case for each method."""

from __future__ import annotations

from tests.api.stores import json
from tests.parity.cases import Engine, answers

from stepwell.v1 import mirrors_pb2, step_store_pb2, types_pb2

TRAIT = mirrors_pb2.TRAIT_SQUID_MESH_STEP_RUN_STORE
Begun, Scheduled = step_store_pb2.BeginStepResponse, step_store_pb2.ScheduleStepResponse


@answers(TRAIT, "begin_step")
async def test_begin_step(engine: Engine) -> None:
    run_id = await engine.create()
    first = await engine.call("BeginStep", run_id=run_id, step_name="s", input=json("1"))
    assert (first.outcome, first.step.state, first.step.input.json) == (
        Begun.OUTCOME_EXECUTE,
        types_pb2.STEP_STATE_RUNNING,
        "1",
    )
    again = await engine.call("BeginStep", run_id=run_id, step_name="s", input=json("2"))
    assert (again.outcome, again.step) == (Begun.OUTCOME_SKIP, first.step)


@answers(TRAIT, "schedule_step")
async def test_schedule_step(engine: Engine) -> None:
    run_id = await engine.create()
    first = await engine.call("ScheduleStep", run_id=run_id, step_name="s", input=json("1"))
    assert (first.outcome, first.step.state) == (Scheduled.OUTCOME_SCHEDULE, types_pb2.STEP_STATE_PENDING)
    again = await engine.call("ScheduleStep", run_id=run_id, step_name="s")
    assert (again.outcome, again.step) == (Scheduled.OUTCOME_SKIP, first.step)


@answers(TRAIT, "complete_step")
async def test_complete_step(engine: Engine) -> None:
    run_id = await engine.create()
    begun = await engine.call("BeginStep", run_id=run_id, step_name="s")
    done = await engine.call("CompleteStep", step_number=begun.step.number, result=json("1"))
    assert (done.step.state, done.step.result.json) == (types_pb2.STEP_STATE_COMPLETED, "1")


@answers(TRAIT, "fail_step")
async def test_fail_step(engine: Engine) -> None:
    run_id = await engine.create()
    begun = await engine.call("BeginStep", run_id=run_id, step_name="s")
    failed = await engine.call("FailStep", step_number=begun.step.number, failure={"message": "boom"})
    assert (failed.step.state, failed.step.failure.message) == (types_pb2.STEP_STATE_FAILED, "boom")


@answers(TRAIT, "get_step_run")
async def test_get_step_run(engine: Engine) -> None:
    run_id = await engine.create()
    assert not (await engine.call("GetStep", run_id=run_id, step_name="s")).found
    begun = await engine.call("BeginStep", run_id=run_id, step_name="s")
    found = await engine.call("GetStep", run_id=run_id, step_name="s")
    assert (found.found, found.step) == (True, begun.step)


async def two_done(engine: Engine) -> str:
    """A run whose second step was completed before its first, and whose third is at work."""
    run_id = await engine.create()
    steps = [(await engine.call("BeginStep", run_id=run_id, step_name=name)).step for name in ("a", "b", "c")]
    for step in (steps[1], steps[0]):
        await engine.call("CompleteStep", step_number=step.number, result=json(f'"{step.name}"'))
    return run_id


@answers(TRAIT, "completed_steps")
async def test_completed_steps(engine: Engine) -> None:
    """In the order of their completion."""
    steps = await engine.pages("ListCompletedSteps", "steps", run_id=await two_done(engine), page_size=1)
    assert [step.name for step in steps] == ["b", "a"]


@answers(TRAIT, "completed_outputs")
async def test_completed_outputs(engine: Engine) -> None:
    steps = await engine.pages("ListCompletedSteps", "steps", run_id=await two_done(engine))
    assert {step.name: step.result.json for step in steps} == {"a": '"a"', "b": '"b"'}


@answers(TRAIT, "step_statuses")
async def test_step_statuses(engine: Engine) -> None:
    entries = await engine.pages("ListStepStates", "entries", run_id=await two_done(engine))
    done, running = types_pb2.STEP_STATE_COMPLETED, types_pb2.STEP_STATE_RUNNING
    assert {entry.step_name: entry.state for entry in entries} == {"a": done, "b": done, "c": running}
