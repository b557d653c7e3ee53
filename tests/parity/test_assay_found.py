"""assay's `WorkflowStore`: search attributes and snapshots."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.parity.cases import Engine, answers
from tests.parity.test_assay import TRAIT, created, read

from stepwell import reasons
from stepwell.stores.assay import WorkflowStore


async def attributes(store: WorkflowStore, workflow_id: str) -> object:
    return json.loads((await read(store, workflow_id)).search_attributes or "null")


@answers(TRAIT, "upsert_search_attributes")
async def test_search_attrs_upsert(engine: Engine) -> None:
    """Merged name by name; by the id alone; an unknown one is told."""
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store)
    assert await attributes(store, workflow_id) is None
    await store.upsert_search_attributes(workflow_id, '{"env": "prod", "tenant": "acme"}')
    await store.upsert_search_attributes(workflow_id, '{"env": "staging", "region": "eu-west"}')
    assert await attributes(store, workflow_id) == {"env": "staging", "tenant": "acme", "region": "eu-west"}
    with pytest.raises(reasons.RunNotFound):
        await store.upsert_search_attributes("unknown", '{"env": "prod"}')


@answers(TRAIT, "upsert_search_attributes")
async def test_concurrent_patches_lose_nothing(engine: Engine) -> None:
    """Over two replicas; assay loses some."""
    stores = engine.stores(WorkflowStore, 8)
    workflow_id = await created(engine, stores[0])
    patches = [json.dumps({f"a{number}": number}) for number in range(len(stores))]
    await asyncio.gather(
        *(store.upsert_search_attributes(workflow_id, patch) for store, patch in zip(stores, patches, strict=True))
    )
    assert await attributes(stores[0], workflow_id) == {f"a{number}": number for number in range(len(stores))}


async def test_search_attrs_keep_nulls(engine: Engine) -> None:
    """The store keeps a name whose value is null; it fits no filter."""
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store, search_attributes='{"env": "prod"}')
    await store.upsert_search_attributes(workflow_id, '{"env": null}')
    assert await attributes(store, workflow_id) == {"env": None}
    assert await store.list_workflows(engine.namespace, search_attrs_filter='{"env": null}') == []


@answers(TRAIT, "list_workflows")
async def test_search_attributes_filter_list(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    for name, given in (("1", {"env": "prod", "n": 0.5}), ("2", {"env": "prod"}), ("3", {"env": "staging"})):
        await created(engine, store, name, search_attributes=json.dumps(given))
    for wanted, count in (
        (None, 3),
        ('{"env": "prod"}', 2),
        ('{"env": "prod", "n": 0.5}', 1),
        ('{"env": "x\\" OR \\""}', 0),
    ):
        found = await store.list_workflows(engine.namespace, search_attrs_filter=wanted)
        assert len(found) == count, wanted
    with pytest.raises(ValueError, match="Expecting value"):
        await store.list_workflows(engine.namespace, search_attrs_filter="no JSON")


@answers(TRAIT, "create_snapshot", "get_latest_snapshot")
async def test_snapshot_create_and_get_latest(engine: Engine) -> None:
    """The greatest number, not the newest; one of the same number is replaced."""
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store)
    assert await store.get_latest_snapshot(workflow_id) is None
    for seq in (1, 5, 3):
        await store.create_snapshot(workflow_id, seq, f'{{"n":  {seq}}}')
    latest = await store.get_latest_snapshot(workflow_id)
    assert latest is not None
    assert (latest.workflow_id, latest.event_seq, latest.state_json) == (workflow_id, 5, '{"n":  5}')
    await store.create_snapshot(workflow_id, 5, "6")
    replaced = await store.get_latest_snapshot(workflow_id)
    assert replaced is not None
    assert (replaced.event_seq, replaced.state_json) == (5, "6")
    with pytest.raises(reasons.RunNotFound):
        await store.create_snapshot("unknown", 1, "1")
