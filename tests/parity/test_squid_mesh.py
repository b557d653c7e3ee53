"""SquidMesh's `StepRunStore`: its contract cases by name, and what they do not reach of its methods."""

from __future__ import annotations

import asyncio

import pytest
from tests.parity.cases import Engine, answers

from stepwell import reasons
from stepwell.stores.squid_mesh import StepRunStore
from stepwell.v1 import mirrors_pb2

TRAIT = mirrors_pb2.TRAIT_SQUID_MESH_STEP_RUN_STORE
UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


# --- C.4, StepRunStore ------------------------------------------------------------------------------------------------


@answers(TRAIT, "begin_step")
async def test_four_concurrent_begin_step_execute_once(engine: Engine) -> None:
    """Over four connections and two replicas."""
    run_id = await engine.create()
    begun = await asyncio.gather(
        *(store.begin_step(run_id, "s", {"n": n}) for n, store in enumerate(engine.stores(StepRunStore, 4)))
    )
    assert sorted(outcome for _, outcome in begun) == ["execute", "skip", "skip", "skip"]
    (step,) = {each.id for each, _ in begun}
    (executed,) = (each for each, outcome in begun if outcome == "execute")
    assert (executed.id, executed.run_id, executed.status) == (step, run_id, "running")


@answers(TRAIT, "schedule_step", "begin_step")
async def test_schedule_then_begin_keeps_id_and_input(engine: Engine) -> None:
    store, run_id = engine.store(StepRunStore), await engine.create()
    scheduled, outcome = await store.schedule_step(run_id, "s", {"n": 1})
    assert (outcome, scheduled.status, scheduled.step, scheduled.run_id) == ("schedule", "pending", "s", run_id)
    assert await store.schedule_step(run_id, "s", {"n": 2}) == (scheduled, "skip")
    begun, begins = await store.begin_step(run_id, "s", {"n": 3})
    assert (begins, begun.id, begun.status, begun.input) == ("execute", scheduled.id, "running", {"n": 1})
    assert begun.updated_at > scheduled.updated_at
    assert await store.begin_step(run_id, "s", {"n": 4}) == (begun, "skip")


@answers(TRAIT, "complete_step", "get_step_run")
async def test_stale_complete_and_fail_are_refused(engine: Engine) -> None:
    """Once it is completed, by whichever replica."""
    store, other = engine.stores(StepRunStore, 2)
    run_id = await engine.create()
    assert await store.get_step_run(run_id, "s") is None
    begun, _ = await store.begin_step(run_id, "s", {})
    done = await store.complete_step(begun.id, {"ok": True})
    assert (done.id, done.run_id, done.status, done.output) == (begun.id, run_id, "completed", {"ok": True})
    for late in (other.fail_step, store.complete_step):
        with pytest.raises(reasons.StepStateConflict) as refused:
            await late(begun.id, {"message": "no"})
        assert refused.value.metadata["state"] == "COMPLETED"
    assert await other.get_step_run(run_id, "s") == done


# --- C.2 --------------------------------------------------------------------------------------------------------------


@answers(TRAIT, "fail_step", "begin_step")
async def test_a_failed_step_begins_again_with_the_new_input(engine: Engine) -> None:
    """And of many who try, one gets it."""
    stores, run_id = engine.stores(StepRunStore, 4), await engine.create()
    first, _ = await stores[0].begin_step(run_id, "s", {"n": 1})
    failed = await stores[0].fail_step(first.id, {"message": "boom", "code": 7})
    assert (failed.id, failed.run_id, failed.status) == (first.id, run_id, "failed")
    assert failed.last_error == {"message": "boom", "code": 7}
    begun = await asyncio.gather(*(store.begin_step(run_id, "s", {"n": 2}) for store in stores))
    assert sorted(outcome for _, outcome in begun) == ["execute", "skip", "skip", "skip"]
    again = begun[0][0]
    assert (again.id, again.input, again.last_error, again.status) == (first.id, {"n": 2}, None, "running")


async def test_what_is_not_there(engine: Engine) -> None:
    store, run_id = engine.store(StepRunStore), await engine.create()
    step, _ = await store.begin_step(run_id, "s", {})
    with pytest.raises(reasons.StepNotFound):
        await store.complete_step(str(int(step.id) + 1), {})
    with pytest.raises(reasons.RunNotFound):
        await store.begin_step(UNKNOWN, "s", {})
    assert await store.step_statuses(UNKNOWN) == {}
    assert await store.completed_steps(UNKNOWN) == []
    assert await store.get_step_run(UNKNOWN, "s") is None


async def two_done(engine: Engine, store: StepRunStore) -> str:
    """A run whose second step was completed before its first, without an output, and whose third is at work."""
    run_id = await engine.create()
    first, second, _ = [(await store.begin_step(run_id, name, {}))[0] for name in "abc"]
    await store.complete_step(second.id, {})
    await store.complete_step(first.id, {"done": "a"})
    return run_id


@answers(TRAIT, "completed_steps", "completed_outputs", "step_statuses")
async def test_completed_steps_are_in_the_order_of_their_completion(engine: Engine) -> None:
    store = engine.store(StepRunStore)
    run_id = await two_done(engine, store)
    assert await store.completed_steps(run_id) == ["b", "a"]
    assert await store.completed_outputs(run_id) == [{}, {"done": "a"}]
    assert await store.step_statuses(run_id) == {"a": "completed", "b": "completed", "c": "running"}
