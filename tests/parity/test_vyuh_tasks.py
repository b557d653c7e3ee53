"""Vyuh's `UserTaskInstanceRepository`: the checks of its tasks by name, and what they do not reach of its methods."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import replace
from uuid import uuid4

import pytest
from tests.parity.cases import Engine, answers

from stepwell import reasons
from stepwell.stores.vyuh import (
    TaskStatus,
    UserTaskInstance,
    UserTaskInstanceRepository,
    UserTaskPriority,
    WorkflowStorage,
)
from stepwell.v1 import mirrors_pb2

TRAIT = mirrors_pb2.TRAIT_VYUH_WORKFLOW_STORAGE
T = "userTaskInstances."
DUE = dt.datetime(2031, 1, 1, tzinfo=dt.UTC)


def task(node: str = "approve", **fields: object) -> UserTaskInstance:
    given = {"workflowInstanceId": "w", "nodeId": node, "schemaType": "form", "title": node, "input": {"n": 1}}
    return UserTaskInstance(**{**given, **fields})  # type: ignore[arg-type]


async def made(engine: Engine, *tasks: UserTaskInstance) -> tuple[UserTaskInstanceRepository, list[UserTaskInstance]]:
    """The repository, with these tasks of a run `w`."""
    await engine.create("w")
    store = engine.store(WorkflowStorage).userTaskInstances
    return store, [await store.create(each) for each in tasks]


def nodes(found: list[UserTaskInstance]) -> list[str]:
    return [each.nodeId for each in found]


@answers(TRAIT, T + "create", T + "getById")
async def test_a_task_is_stored_as_it_was_given(engine: Engine) -> None:
    given = task(
        id=str(uuid4()),
        description="look\nclosely",
        signalName="approved",
        assignedToRoleId="clerk",
        assignedToUserId="ann",
        assignedToGroupId="desk",
        priority=UserTaskPriority.urgent,
        dueAt=DUE,
    )
    store, (created,) = await made(engine, given)
    assert created.createdAt == created.updatedAt > given.createdAt
    assert created == replace(given, createdAt=created.createdAt, updatedAt=created.updatedAt)
    assert await store.getById(given.id) == created
    assert await store.getById(str(uuid4())) is None
    with pytest.raises(reasons.UserTaskExists):
        await store.create(given)


@answers(
    TRAIT, T + "getPendingByRoleId", T + "getPendingByRoleIds", T + "getPendingByUserId", T + "getPendingByGroupId"
)
async def test_pending_lists_exclude_claimed_and_completed(engine: Engine) -> None:
    whose = {"assignedToRoleId": "clerk", "assignedToGroupId": "desk"}
    given = [task(node, **whose) for node in ("free", "claimed", "done", "gone")]
    store, (_, claimed, done, gone) = await made(engine, *given)
    mine = await store.create(task("mine", assignedToUserId="ann", assignedToRoleId="boss"))
    for each in (claimed, done):
        await store.claim(each.id, "bob")
    await store.complete(done.id, "bob", {})
    await store.cancel(gone.id)
    assert nodes(await store.getPendingByRoleId("clerk")) == ["free"]
    assert nodes(await store.getPendingByGroupId("desk")) == ["free"]
    assert nodes(await store.getPendingByRoleIds(["boss", "clerk", "nobody"])) == ["free", "mine"]
    assert await store.getPendingByUserId("ann") == [mine]
    assert await store.getPendingByRoleIds([]) == []
    assert await store.getPendingByUserId("bob") == []


@answers(TRAIT, T + "claim")
async def test_two_concurrent_claims_have_one_winner(engine: Engine) -> None:
    """Over two connections, to two replicas."""
    _, (given,) = await made(engine, task())
    stores = [each.userTaskInstances for each in engine.stores(WorkflowStorage, 2)]
    claims = [each.claim(given.id, user) for each, user in zip(stores, ("ann", "bob"), strict=True)]
    came = await asyncio.gather(*claims, return_exceptions=True)
    (won,) = (each for each in came if isinstance(each, UserTaskInstance))
    (lost,) = (each for each in came if isinstance(each, reasons.UserTaskStateConflict))
    assert (won.status, won.id, lost.metadata["claimed_by"]) == (TaskStatus.claimed, given.id, won.claimedBy)
    assert await stores[0].claim(given.id, won.claimedBy or "") == won
    assert won.claimedAt is not None


@answers(TRAIT, T + "claim")
async def test_a_task_of_another_user_is_not_claimed(engine: Engine) -> None:
    store, (given,) = await made(engine, task(assignedToUserId="ann"))
    with pytest.raises(reasons.UserTaskAssignedElsewhere):
        await store.claim(given.id, "bob")
    assert (await store.claim(given.id, "ann")).claimedBy == "ann"


@answers(TRAIT, T + "complete")
async def test_complete_sets_completed_by_and_at(engine: Engine) -> None:
    store, (given,) = await made(engine, task())
    with pytest.raises(reasons.UserTaskStateConflict):
        await store.complete(given.id, "ann", {"ok": True})
    await store.claim(given.id, "ann")
    with pytest.raises(reasons.UserTaskStateConflict):
        await store.complete(given.id, "bob", {"ok": True})
    done = await store.complete(given.id, "ann", {"ok": True})
    assert (done.status, done.completedBy, done.output) == (TaskStatus.completed, "ann", {"ok": True})
    assert done.completedAt is not None
    assert await store.complete(given.id, "ann", {"ok": True}) == done
    with pytest.raises(reasons.UserTaskStateConflict):
        await store.complete(given.id, "ann", {"ok": False})


@answers(TRAIT, T + "cancelByWorkflowInstanceId", T + "cancel", T + "getByWorkflowInstanceId", T + "getByStatus")
async def test_cancel_by_instance_counts_only_active_ones(engine: Engine) -> None:
    store, (free, claimed, done, gone) = await made(engine, *(task(node) for node in ("a", "b", "c", "d")))
    await engine.create("other")
    kept = await store.create(task("e", workflowInstanceId="other"))
    for each in (claimed, done):
        await store.claim(each.id, "ann")
    await store.complete(done.id, "ann", {})
    assert (await store.cancel(gone.id)).status is TaskStatus.cancelled
    assert await store.cancelByWorkflowInstanceId("w") == 2
    assert await store.cancelByWorkflowInstanceId("w") == 0
    found = await store.getByWorkflowInstanceId("w")
    assert {each.id: each.status.value for each in found} == {
        free.id: "cancelled",
        claimed.id: "cancelled",
        done.id: "completed",
        gone.id: "cancelled",
    }
    assert nodes(found) == ["d", "c", "b", "a"]
    assert await store.getByStatus(TaskStatus.pending) == [kept]
    assert nodes(await store.getByStatus(TaskStatus.completed)) == ["c"]


@answers(TRAIT, T + "findActive")
async def test_find_active_is_null_after_completion(engine: Engine) -> None:
    store, (given,) = await made(engine, task())
    assert await store.findActive(workflowInstanceId="w", nodeId="approve") == given
    claimed = await store.claim(given.id, "ann")
    assert await store.findActive(workflowInstanceId="w", nodeId="approve") == claimed
    assert await store.findActive(workflowInstanceId="w", nodeId="other") is None
    assert await store.findActive(workflowInstanceId="nobody", nodeId="approve") is None
    await store.complete(given.id, "ann", {})
    assert await store.findActive(workflowInstanceId="w", nodeId="approve") is None


@answers(TRAIT, T + "update")
async def test_an_update_changes_what_is_asked_for_and_no_claim(engine: Engine) -> None:
    store, (given,) = await made(engine, task(assignedToRoleId="clerk"))
    await store.claim(given.id, "ann")
    wanted = replace(given, title="new", input={"n": 2}, priority=UserTaskPriority.high, dueAt=DUE)
    changed = await store.update(wanted)
    assert (changed.title, changed.input, changed.priority, changed.dueAt) == ("new", {"n": 2}, "high", DUE)
    assert (changed.status, changed.claimedBy) == (TaskStatus.claimed, "ann")
    moved = await store.update(replace(changed, assignedToUserId="bob"))
    assert (moved.status, moved.claimedBy, moved.assignedToUserId) == (TaskStatus.pending, None, "bob")
    with pytest.raises(reasons.UserTaskNotFound):
        await store.update(replace(given, id=str(uuid4())))


@answers(TRAIT, T + "delete")
async def test_a_deleted_task_is_gone(engine: Engine) -> None:
    store, (given,) = await made(engine, task())
    await store.delete(given.id)
    assert await store.getById(given.id) is None
    assert await store.findActive(workflowInstanceId="w", nodeId="approve") is None
    await store.delete(given.id)


@answers(TRAIT, T + "search")
async def test_search_finds_what_fits(engine: Engine) -> None:
    """Texts in whatever case, and to the letter: `%` and `_` are letters, too."""
    store, _ = await made(
        engine,
        task("a", title="Sign 100%", assignedToUserId="ann"),
        task("b", title="sign it", description="in Full", assignedToUserId="bob"),
        task("c", title="pay", assignedToRoleId="clerk", assignedToGroupId="desk"),
    )
    assert nodes(await store.search(query="SIGN")) == ["b", "a"]
    assert nodes(await store.search(query="0%")) == ["a"]
    assert nodes(await store.search(query="full")) == ["b"]
    assert nodes(await store.search(query="_")) == []
    assert nodes(await store.search(assignedToUserId="ann", workflowInstanceId="w")) == ["a"]
    assert nodes(await store.search(assignedToRoleId="clerk", assignedToGroupId="desk")) == ["c"]
    assert nodes(await store.search(nodeId="b", status=TaskStatus.pending)) == ["b"]
    assert nodes(await store.search(status=TaskStatus.claimed)) == []
