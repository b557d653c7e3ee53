"""What of the stores removes runs: FlowOrchestrator's clean-up, Vyuh's deletion of an instance."""

from __future__ import annotations

import datetime as dt

from tests.parity.cases import Engine, answers

from stepwell.stores.flow_orchestrator import FlowRunStore
from stepwell.v1 import mirrors_pb2

FLOW, VYUH = mirrors_pb2.TRAIT_FLOW_RUN_STORE, mirrors_pb2.TRAIT_VYUH_WORKFLOW_STORAGE


async def ended(engine: Engine, workflow_id: str) -> str:
    run_id = await engine.create(workflow_id)
    await engine.call("SaveStep", run_id=run_id, step_name="s")
    await engine.call("AppendEvent", run_id=run_id, type="e")
    await engine.call("MarkRunCompleted", run_id=run_id)
    return run_id


@answers(FLOW, "CleanupAsync")
async def test_clean_up(engine: Engine) -> None:
    """Strictly older than the cutoff, with all that is theirs; what runs is never touched."""
    store = engine.store(FlowRunStore)
    first, second, running = await ended(engine, "a"), await ended(engine, "b"), await engine.create("c")
    end = (await engine.call("ReadRun", run_id=second)).run.end_time.ToDatetime(dt.UTC)
    await store.CleanupAsync(end)
    assert [(await engine.call("ReadRun", run_id=run_id)).found for run_id in (first, second)] == [False, True]
    assert (await engine.call("CountEvents", run_id=first)).count == 0
    await store.CleanupAsync(end + dt.timedelta(seconds=1))
    assert [(await engine.call("ReadRun", run_id=run_id)).found for run_id in (second, running)] == [False, True]


@answers(VYUH, "instances.delete")
async def test_delete_an_instance(engine: Engine) -> None:
    await ended(engine, "i")
    assert (await engine.call("DeleteRun", workflow_id="i")).deleted
    assert not (await engine.call("DeleteRun", workflow_id="i")).deleted
    assert not (await engine.call("ReadRun", workflow_id="i")).found
