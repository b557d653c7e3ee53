"""assay's `WorkflowStore`: its store contract (D1) by name, first part: namespaces, workflows, tasks and events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.parity.cases import Engine, answers

from stepwell import errors, reasons
from stepwell.stores.assay import WorkflowEvent, WorkflowRecord, WorkflowStatus, WorkflowStore
from stepwell.v1 import mirrors_pb2

TRAIT = mirrors_pb2.TRAIT_ASSAY_WORKFLOW_STORE


def record(engine: Engine, id: str = "w", **fields: Any) -> WorkflowRecord:  # noqa: A002 - assay's name
    """A workflow whose id is nobody else's."""
    given = {"namespace": engine.namespace, "workflow_type": "t", **fields}
    return WorkflowRecord(id=f"{engine.namespace}-{id}", **given)


async def created(engine: Engine, store: WorkflowStore, id: str = "w", **fields: Any) -> str:  # noqa: A002
    workflow = record(engine, id, **fields)
    await store.create_workflow(workflow)
    return workflow.id


async def read(store: WorkflowStore, workflow_id: str) -> WorkflowRecord:
    found = await store.get_workflow(workflow_id)
    assert found is not None
    return found


@answers(TRAIT, "list_namespaces")
async def test_namespace_roundtrip(engine: Engine) -> None:
    listed = await engine.store(WorkflowStore).list_namespaces()
    names = [each.name for each in listed]
    assert {"main", engine.namespace} <= set(names)
    assert names == sorted(names)
    assert all(each.created_at > 0 for each in listed)


@answers(TRAIT, "create_namespace", "get_namespace_stats", "delete_namespace", "list_namespaces")
async def test_namespace_delete_and_stats(engine: Engine) -> None:
    """With a workflow in it a namespace is not deleted, which is ours."""
    store, name = engine.store(WorkflowStore), f"{engine.namespace}-other"
    await store.create_namespace(name)
    assert name in {each.name for each in await store.list_namespaces()}
    stats = await store.get_namespace_stats(name)
    assert (stats.namespace, stats.total_workflows) == (name, 0)
    await store.create_workflow(record(engine, namespace=name))
    stats = await store.get_namespace_stats(name)
    assert (stats.total_workflows, stats.pending, stats.running) == (1, 1, 0)
    with pytest.raises(reasons.NamespaceNotEmpty):
        await store.delete_namespace(name)
    with pytest.raises(reasons.NamespaceExists):
        await store.create_namespace(name)
    assert await store.delete_namespace(engine.namespace)
    assert engine.namespace not in {each.name for each in await store.list_namespaces()}
    assert not await store.delete_namespace(engine.namespace)
    assert not await store.delete_namespace("main")
    assert (await store.get_namespace_stats("unknown")).total_workflows == 0


@answers(TRAIT, "create_workflow", "get_workflow")
async def test_workflow_create_get_roundtrip(engine: Engine) -> None:
    """Found by its id alone, from the other replica, too."""
    store, other = engine.stores(WorkflowStore, 2, namespace="main")
    workflow = record(engine, run_id="run-w-1700000000", task_queue="q", input='{"b": 1,  "a": [2]}')
    await store.create_workflow(workflow)
    for each in (store, other):
        found = await read(each, workflow.id)
        given = ("id", "namespace", "run_id", "workflow_type", "task_queue", "status", "input")
        assert [getattr(found, name) for name in given] == [getattr(workflow, name) for name in given]
        assert (found.result, found.error, found.claimed_by, found.completed_at) == (None, None, None, None)
        assert found.created_at > 0
    assert await store.get_workflow("unknown") is None
    with pytest.raises(errors.AlreadyExists):
        await store.create_workflow(workflow)


@answers(TRAIT, "update_workflow_status")
async def test_workflow_status_transitions(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store)
    await store.update_workflow_status(workflow_id, WorkflowStatus.RUNNING)
    running = await read(store, workflow_id)
    assert (running.status, running.completed_at) == ("RUNNING", None)
    await store.update_workflow_status(workflow_id, WorkflowStatus.COMPLETED, '{"ok":  true}')
    done = await read(store, workflow_id)
    assert (done.status, done.result, done.completed_at is not None) == ("COMPLETED", '{"ok":  true}', True)
    with pytest.raises(reasons.RunTerminal):
        await store.update_workflow_status(workflow_id, WorkflowStatus.RUNNING)
    failing = await created(engine, store, "f", status=WorkflowStatus.RUNNING)
    await store.update_workflow_status(failing, WorkflowStatus.FAILED, error="boom")
    failed = await read(store, failing)
    assert (failed.status, failed.error) == ("FAILED", "boom")


@answers(TRAIT, "claim_workflow")
async def test_workflow_claim(engine: Engine) -> None:
    store, other = engine.stores(WorkflowStore, 2)
    workflow_id = await created(engine, store)
    assert await store.claim_workflow(workflow_id, "A")
    assert not await other.claim_workflow(workflow_id, "B")
    claimed = await read(store, workflow_id)
    assert (claimed.claimed_by, claimed.status) == ("A", "RUNNING")


@answers(TRAIT, "claim_workflow")
async def test_concurrent_workflow_claims_have_one_winner(engine: Engine) -> None:
    stores = engine.stores(WorkflowStore, 8)
    workflow_id = await created(engine, stores[0])
    claims = await asyncio.gather(*(store.claim_workflow(workflow_id, f"w{n}") for n, store in enumerate(stores)))
    assert sorted(claims) == [False] * 7 + [True]


@answers(TRAIT, "list_workflows")
async def test_workflow_list_with_filters(engine: Engine) -> None:
    store, namespace = engine.store(WorkflowStore), engine.namespace
    first = await created(engine, store, "1", workflow_type="a", input="[1]")
    second = await created(engine, store, "2", workflow_type="b")
    listed = await store.list_workflows(namespace)
    assert [(each.id, each.input) for each in listed] == [(second, None), (first, "[1]")]
    assert [each.id for each in await store.list_workflows(namespace, workflow_type="a")] == [first]
    assert len(await store.list_workflows(namespace, WorkflowStatus.PENDING)) == 2
    await store.update_workflow_status(second, WorkflowStatus.RUNNING)
    assert [each.id for each in await store.list_workflows(namespace, WorkflowStatus.RUNNING)] == [second]
    assert [each.id for each in await store.list_workflows(namespace, limit=1)] == [second]
    assert [each.id for each in await store.list_workflows(namespace, limit=1, offset=1)] == [first]


@answers(TRAIT, "mark_workflow_dispatchable", "claim_workflow_task", "release_workflow_task")
async def test_workflow_task_dispatch(engine: Engine) -> None:
    store, other = engine.stores(WorkflowStore, 2)
    workflow_id = await created(engine, store, task_queue="q", input="[1]")
    assert await store.claim_workflow_task("q", "w1") is None
    await store.mark_workflow_dispatchable(workflow_id)
    claimed = await store.claim_workflow_task("q", "w1")
    assert claimed is not None
    assert (claimed.id, claimed.input) == (workflow_id, "[1]")
    assert await other.claim_workflow_task("q", "w2") is None
    await other.mark_workflow_dispatchable(workflow_id)
    await other.release_workflow_task(workflow_id, "w2")
    assert await other.claim_workflow_task("q", "w2") is None
    await store.release_workflow_task(workflow_id, "w1")
    again = await other.claim_workflow_task("q", "w2")
    assert again is not None
    assert again.id == workflow_id


@answers(TRAIT, "claim_workflow_task")
async def test_concurrent_task_claims_are_exclusive(engine: Engine) -> None:
    """Each to one of many claimers over two replicas, and none stays behind."""
    stores = engine.stores(WorkflowStore, 6)
    ids = [await created(engine, stores[0], str(n), task_queue="q") for n in range(12)]
    for workflow_id in ids:
        await stores[0].mark_workflow_dispatchable(workflow_id)
    claims = await asyncio.gather(*(store.claim_workflow_task("q", f"w{n}") for n in range(2) for store in stores))
    assert sorted(each.id for each in claims if each is not None) == sorted(ids)


@answers(TRAIT, "release_stale_dispatch_leases")
async def test_stale_dispatch_leases_are_released(engine: Engine) -> None:
    """And the tasks are to be had again."""
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store, task_queue="q")
    await store.mark_workflow_dispatchable(workflow_id)
    claimed = await store.claim_workflow_task("q", "w1")
    assert claimed is not None
    assert await store.release_stale_dispatch_leases(claimed.created_at, 60.0) == 0
    assert await store.release_stale_dispatch_leases(claimed.created_at + 3600, 60.0) == 1
    assert await store.claim_workflow_task("q", "w2") is not None


@answers(TRAIT, "append_event", "list_events", "get_event_count")
async def test_events_append_and_list(engine: Engine) -> None:
    store, other = engine.stores(WorkflowStore, 2)
    workflow_id = await created(engine, store)
    ids = [
        await store.append_event(
            WorkflowEvent(workflow_id=workflow_id, seq=seq, event_type="T", payload=f'{{"n": {seq}}}')
        )
        for seq in (1, 2, 3)
    ]
    assert (all(each > 0 for each in ids), len(set(ids))) == (True, 3)
    listed = await other.list_events(workflow_id)
    assert [(event.seq, event.workflow_id, event.event_type, event.payload) for event in listed] == [
        (seq, workflow_id, "T", f'{{"n": {seq}}}') for seq in (1, 2, 3)
    ]
    assert [event.id for event in listed] == ids
    assert await store.get_event_count(workflow_id) == 3
    assert (await store.get_event_count("unknown"), await store.list_events("unknown")) == (0, [])


@answers(TRAIT, "append_event")
async def test_concurrent_appends_of_one_number_have_one_winner(engine: Engine) -> None:
    stores = engine.stores(WorkflowStore, 4)
    workflow_id = await created(engine, stores[0])

    async def append(store: WorkflowStore, word: str) -> int:
        try:
            return await store.append_event(WorkflowEvent(workflow_id=workflow_id, seq=1, event_type=word))
        except reasons.EventSeqExists:
            return 0

    appended = await asyncio.gather(*(append(store, f"T{n}") for n, store in enumerate(stores)))
    (event,) = await stores[0].list_events(workflow_id)
    assert [each for each in appended if each] == [event.id]


@answers(TRAIT, "list_child_workflows")
async def test_child_workflows_listing(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    parent = await created(engine, store, "parent")
    children = [await created(engine, store, f"c{n}", parent_id=parent) for n in range(3)]
    await created(engine, store, "unrelated")
    listed = await store.list_child_workflows(parent)
    assert [(each.id, each.parent_id) for each in listed] == [(child, parent) for child in children]
    assert await store.list_child_workflows("unknown") == []
