"""Vyuh's `transaction`: its contract case, and what a block may do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from tests.parity.cases import Engine, answers
from tests.parity.test_vyuh_tasks import task

from stepwell import reasons
from stepwell.stores.vyuh import (
    RawWorkflow,
    TaskStatus,
    UserTaskInstance,
    WorkflowInstance,
    WorkflowStatus,
    WorkflowStorage,
)
from stepwell.stores.vyuh.events import WorkflowEvent
from stepwell.v1 import mirrors_pb2

TRAIT = mirrors_pb2.TRAIT_VYUH_WORKFLOW_STORAGE


@answers(TRAIT, "transaction")
async def test_transaction_rollback_leaves_nothing(engine: Engine) -> None:
    """Whether the block ends with an exception, or the last of its writes is refused."""
    await engine.create("w")
    store = engine.store(WorkflowStorage)
    first, second = [await store.userTaskInstances.create(task(node)) for node in ("a", "b")]
    await store.userTaskInstances.cancel(second.id)

    async def broken(within: Any) -> None:
        await within.userTaskInstances.claim(first.id, "ann")
        raise ZeroDivisionError

    async def refused(within: Any) -> None:
        await within.userTaskInstances.claim(first.id, "ann")
        await within.userTaskInstances.create(task("c"))
        await within.userTaskInstances.claim(second.id, "ann")

    async def good(within: Any) -> list[Any]:
        (seen,) = await within.userTaskInstances.search(nodeId="a")
        assert seen == first
        return [
            await within.userTaskInstances.claim(first.id, "ann"),
            await within.userTaskInstances.create(task("c")),
            await within.events.append(WorkflowEvent(workflowInstanceId="w", eventType="claimed")),
        ]

    with pytest.raises(ZeroDivisionError):
        await store.transaction(broken)
    with pytest.raises(reasons.UserTaskStateConflict) as caught:
        await store.transaction(refused)
    assert caught.value.metadata["at"] == "writes[2].claim_user_task"
    assert await store.userTaskInstances.getById(first.id) == first
    assert len(await store.userTaskInstances.search()) == 2
    claimed, created, appended = await store.transaction(good)
    assert (claimed.answer.status, claimed.answer.claimedBy) == (TaskStatus.claimed, "ann")
    assert isinstance(created.answer, UserTaskInstance)
    assert created.answer.nodeId == "c"
    assert await store.userTaskInstances.getById(first.id) == claimed.answer
    assert len(await store.userTaskInstances.search()) == 3
    assert await store.events.getLatestByWorkflowInstanceId("w") == appended.answer


async def test_nothing_is_done_before_the_block_ends(engine: Engine) -> None:
    """And what can't be part of a transaction is not done at all."""
    await engine.create("w")
    store = engine.store(WorkflowStorage)
    first = await store.userTaskInstances.create(task("a"))

    async def waiting(within: Any) -> str:
        claimed = await within.userTaskInstances.claim(first.id, "ann")
        with pytest.raises(RuntimeError):
            _ = claimed.answer
        assert await within.userTaskInstances.getById(first.id) == first
        assert await within.workflows.getById(first.id) is None
        with pytest.raises(TypeError, match="DeleteUserTask"):
            await within.userTaskInstances.delete(first.id)
        return "done"

    assert await store.transaction(waiting) == "done"
    changed = await store.userTaskInstances.getById(first.id)
    assert changed is not None
    assert (changed.status, changed.claimedBy) == (TaskStatus.claimed, "ann")


async def test_the_seeds_own_example(engine: Engine) -> None:
    """An instance is read, and changed together with its audit trail."""
    storage = engine.store(WorkflowStorage)
    workflow = await storage.workflows.create(RawWorkflow(code="order"))
    await storage.instances.create(WorkflowInstance(id="i", workflowId=workflow.id, status=WorkflowStatus.running))

    async def operation(within: Any) -> Any:
        instance = await within.instances.getById("i")
        assert instance.status == WorkflowStatus.running
        await within.events.append(WorkflowEvent(workflowInstanceId="i", eventType="changed"))
        return await within.instances.updateOutput("i", {"key": "value"})

    changed = await storage.transaction(operation)
    assert changed.answer is True
    stored = await storage.instances.getById("i")
    assert stored is not None
    assert stored.output == {"key": "value"}
    (event,) = await storage.events.getByWorkflowInstanceId("i", eventTypes=["changed"])
    assert event.eventType == "changed"


async def test_what_is_made_in_a_block_is_worked_on_in_it(engine: Engine) -> None:
    """A task that is given its id is claimed and completed; the events of an instance are appended together."""
    await engine.create("w")
    storage, made = engine.store(WorkflowStorage), replace(task("a"), id=str(uuid4()))
    noted = [WorkflowEvent(workflowInstanceId="w", eventType=name) for name in ("one", "two")]

    async def operation(within: Any) -> Any:
        await within.userTaskInstances.create(made)
        await within.userTaskInstances.claim(made.id, "ann")
        await within.userTaskInstances.complete(made.id, "ann", {"ok": True})
        return await within.events.appendAll(noted)

    appended = await storage.transaction(operation)
    assert [event.eventType for event in appended.answer] == ["one", "two"]
    stored = await storage.userTaskInstances.getById(made.id)
    assert stored is not None
    assert (stored.status, stored.output) == (TaskStatus.completed, {"ok": True})
