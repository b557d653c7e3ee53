"""Vyuh's `WorkflowEventRepository`: the checks of its events by name, and what they do not reach of its methods."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest
from tests.parity.cases import Engine, answers

from stepwell import reasons
from stepwell.stores.vyuh import UserTaskInstance, WorkflowEvent, WorkflowEventQuery, WorkflowStorage
from stepwell.stores.vyuh.events import WorkflowEventRepository
from stepwell.v1 import mirrors_pb2

TRAIT = mirrors_pb2.TRAIT_VYUH_WORKFLOW_STORAGE
E = "events."


def event(kind: str = "nodeEntered", instance: str = "w", **fields: Any) -> WorkflowEvent:
    return WorkflowEvent(workflowInstanceId=instance, eventType=kind, **fields)


def types(found: list[WorkflowEvent]) -> list[str]:
    return [each.eventType for each in found]


async def repository(engine: Engine, *instances: str) -> WorkflowEventRepository:
    """The repository, with these instances."""
    for name in instances or ("w",):
        await engine.create(name)
    return engine.store(WorkflowStorage).events


@answers(TRAIT, E + "append", E + "getById")
async def test_an_event_is_stored_as_it_was_given(engine: Engine) -> None:
    store = await repository(engine)
    given = event(nodeId="n", tokenId="t", taskId="task", userId="ada", data={"amount": 7})
    appended = await store.append(given)
    assert appended.createdAt > dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    assert await store.getById(appended.id) == appended
    assert (appended.nodeId, appended.userId, appended.data) == ("n", "ada", {"amount": 7})
    bare = await store.append(event("bare"))
    assert await store.getById(bare.id) == bare
    assert int(bare.id) > int(appended.id)
    for unknown in ("", "x", str(int(bare.id) + 1), str(2**62)):
        assert await store.getById(unknown) is None
    with pytest.raises(reasons.RunNotFound):
        await store.append(event(instance="unknown"))


@answers(TRAIT, E + "appendAll", E + "getByWorkflowInstanceId")
async def test_events_are_in_their_order_and_appended_all_or_none(engine: Engine) -> None:
    store = await repository(engine, "w", "v")
    appended = await store.appendAll([event(f"e{n}", data={"n": n}) for n in range(5)])
    assert await store.getByWorkflowInstanceId("w") == appended
    with pytest.raises(reasons.InvalidField):
        await store.appendAll([event("good"), event("")])
    with pytest.raises(ValueError, match="transaction"):
        await store.appendAll([event(), event(instance="v")])
    assert types(await store.getByWorkflowInstanceId("w")) == [f"e{n}" for n in range(5)]
    assert await store.appendAll([]) == []
    assert await store.getByWorkflowInstanceId("v") == []
    assert await store.getByWorkflowInstanceId("unknown") == []


@answers(TRAIT, E + "getByWorkflowInstanceId")
async def test_type_filter_and_paging(engine: Engine) -> None:
    store = await repository(engine)
    await store.appendAll([event(kind) for kind in ("a", "b", "a*", "ab", 'q"\\', "a")])
    assert types(await store.getByWorkflowInstanceId("w", eventTypes=["a", "b"])) == ["a", "b", "a"]
    assert types(await store.getByWorkflowInstanceId("w", eventTypes=["a*"])) == ["a*"]
    assert types(await store.getByWorkflowInstanceId("w", eventTypes=['q"\\'])) == ['q"\\']
    assert types(await store.getByWorkflowInstanceId("w", limit=2)) == ["a", "b"]
    assert types(await store.getByWorkflowInstanceId("w", limit=2, offset=3)) == ["ab", 'q"\\']
    assert types(await store.getByWorkflowInstanceId("w", eventTypes=["a"], limit=5, offset=1)) == ["a"]
    assert await store.getByWorkflowInstanceId("w", offset=6) == []


@answers(TRAIT, E + "getLatestByWorkflowInstanceId")
async def test_the_latest(engine: Engine) -> None:
    store = await repository(engine)
    assert await store.getLatestByWorkflowInstanceId("w") is None
    await store.append(event("first"))
    last = await store.append(event("last"))
    assert await store.getLatestByWorkflowInstanceId("w") == last
    assert await store.getLatestByWorkflowInstanceId("unknown") is None


@answers(TRAIT, E + "getByNodeId", E + "query", E + "getSummary")
async def test_by_node_by_query_and_in_summary(engine: Engine) -> None:
    store = await repository(engine)
    await store.append(event("workflowStarted", userId="ada"))
    middle = await store.append(event(nodeId="n", tokenId="1"))
    await store.append(event("nodeCompleted", nodeId="n", tokenId="2"))
    await store.append(event(nodeId="m"))
    await store.append(event("workflowCompleted"))
    assert types(await store.getByNodeId("w", "n")) == ["nodeEntered", "nodeCompleted"]
    assert await store.getByNodeId("w", "none") == []
    assert types(await store.getSummary("w")) == ["workflowStarted", "workflowCompleted"]
    asked: dict[str, Any] = {"workflowInstanceId": "w"}
    assert await store.query(WorkflowEventQuery(**asked, nodeId="n", tokenId="1")) == [middle]
    assert types(await store.query(WorkflowEventQuery(**asked, userId="ada"))) == ["workflowStarted"]
    found = await store.query(WorkflowEventQuery(**asked, eventTypes=["nodeEntered"], descending=True, limit=1))
    assert [each.nodeId for each in found] == ["m"]
    assert types(await store.query(WorkflowEventQuery(**asked, nodeId="n", offset=1))) == ["nodeCompleted"]
    later = await store.query(WorkflowEventQuery(**asked, since=middle.createdAt))
    earlier = await store.query(WorkflowEventQuery(**asked, until=middle.createdAt))
    assert types([*earlier, *later]) == types(await store.getByWorkflowInstanceId("w"))


@answers(TRAIT, E + "getByTaskId")
async def test_by_task(engine: Engine) -> None:
    store = await repository(engine, "w", "v")
    tasks = engine.store(WorkflowStorage).userTaskInstances
    given = UserTaskInstance(workflowInstanceId="w", nodeId="n", schemaType="form", title="t")
    task = await tasks.create(given)
    await store.append(event("userTaskCreated", taskId=task.id))
    await store.append(event("other"))
    await store.append(event("userTaskCompleted", taskId=task.id))
    assert types(await store.getByTaskId(task.id)) == ["userTaskCreated", "userTaskCompleted"]
    assert await store.getByTaskId("01890a5d-ac96-774b-bcce-b302099a8057") == []


@answers(TRAIT, E + "deleteByWorkflowInstanceId")
async def test_an_instances_events_are_deleted_and_counted(engine: Engine) -> None:
    """Its own record stays; numbers are not given again."""
    store = await repository(engine, "w", "v")
    await store.appendAll([event(), event()])
    await store.append(event(instance="v"))
    assert await store.deleteByWorkflowInstanceId("w") == 2
    assert await store.deleteByWorkflowInstanceId("w") == 0
    assert await store.deleteByWorkflowInstanceId("unknown") == 0
    assert await store.getByWorkflowInstanceId("w") == []
    assert len(await store.getByWorkflowInstanceId("v")) == 1
    again = await store.append(event())
    assert [each.id for each in await store.getByWorkflowInstanceId("w")] == [again.id]
    assert (await engine.call("CountEvents", workflow_id="w")).count == 2


@answers(TRAIT, E + "pruneOlderThan")
async def test_prune_counts(engine: Engine) -> None:
    """Of open instances and ended ones; strictly older; what the service notes of them stays."""
    store = await repository(engine, "w", "v")
    await store.appendAll([event(), event()])
    await store.append(event(instance="v"))
    await engine.call("MarkRunCompleted", workflow_id="v")
    last = await store.append(event("last"))
    assert await store.pruneOlderThan(last.createdAt) == 3
    assert await store.getByWorkflowInstanceId("w") == [last]
    assert await store.pruneOlderThan(last.createdAt + dt.timedelta(days=1)) == 1
    assert (await engine.call("CountEvents", workflow_id="v")).count == 2
    assert (await engine.call("ReadRun", workflow_id="v")).found


@answers(TRAIT, E + "appendAll")
async def test_concurrent_appends_lose_nothing(engine: Engine) -> None:
    """Over eight connections and two replicas: each batch is together, and no number is given twice."""
    await engine.create("w")
    stores = [storage.events for storage in engine.stores(WorkflowStorage, 8)]
    made = await asyncio.gather(*(store.appendAll([event(str(n))] * 5) for n, store in enumerate(stores)))
    assert len({each.id for batch in made for each in batch}) == 40
    found = types(await stores[0].getByWorkflowInstanceId("w"))
    assert all(len(set(found[place : place + 5])) == 1 for place in range(0, 40, 5))
