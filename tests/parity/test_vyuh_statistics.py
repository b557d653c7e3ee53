"""Vyuh's `WorkflowStorage`: what is told of it as a whole."""

from __future__ import annotations

from tests.api.stores import at
from tests.parity.cases import Engine, answers

from stepwell.stores.vyuh import StorageStats, WorkflowStorage
from stepwell.v1 import mirrors_pb2

TRAIT = mirrors_pb2.TRAIT_VYUH_WORKFLOW_STORAGE


@answers(TRAIT, "instances.countByStatus")
async def test_countByStatus(engine: Engine) -> None:
    for place in range(5):
        await engine.create(f"w{place}")
    for place in range(2):
        await engine.call("MarkRunCompleted", workflow_id=f"w{place}")
    await engine.call("SuspendRun", workflow_id="w2", step_name="s", wake_time=at(0))
    counted = await engine.store(WorkflowStorage).instances.countByStatus()
    assert counted == {"running": 2, "completed": 2, "waitingForSignal": 1}


@answers(TRAIT, "getStats")
async def test_getStats(engine: Engine) -> None:
    """Definitions by version, instances, and those of them that have not ended."""
    for code in ("a", "a", "b"):
        await engine.call("CreateDefinition", definition={"code": code, "name": code})
    for place in range(3):
        await engine.create(f"w{place}")
    await engine.call("MarkRunCompleted", workflow_id="w0")
    stats = await engine.store(WorkflowStorage).getStats()
    assert stats == StorageStats(totalDefinitions=3, totalInstances=3, activeInstances=2)
