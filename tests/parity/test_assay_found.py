"""assay's `WorkflowStore`: search attributes and snapshots."""

from __future__ import annotations

from typing import Any

import pytest
from tests.api.stores import json
from tests.parity.cases import Engine, answers
from tests.service import refusal

from stepwell.v1 import mirrors_pb2

TRAIT = mirrors_pb2.TRAIT_ASSAY_WORKFLOW_STORE


def texts(**values: str) -> dict[str, Any]:
    return {name: {"text": value} for name, value in values.items()}


async def shown(engine: Engine, workflow_id: str = "w") -> dict[str, str]:
    run = (await engine.call("ReadRun", workflow_id=workflow_id)).run
    return {name: value.text for name, value in run.search_attributes.items()}


@answers(TRAIT, "upsert_search_attributes")
async def test_search_attrs_upsert(engine: Engine) -> None:
    """Merged name by name; by the id alone, whatever the namespace; an unknown one is told."""
    workflow_id = f"w-{engine.namespace}"
    await engine.create(workflow_id, search_attributes=texts(env="prod", tenant="acme"))
    patch = texts(env="staging", region="eu-west")
    answer = await engine.call("UpsertSearchAttributes", namespace="-", workflow_id=workflow_id, attributes=patch)
    expected = {"env": "staging", "tenant": "acme", "region": "eu-west"}
    assert {name: value.text for name, value in answer.attributes.items()} == expected
    assert await shown(engine, workflow_id) == expected
    unknown = engine.call("UpsertSearchAttributes", workflow_id="unknown", attributes=patch)
    assert (await refusal(unknown))[1] == "RUN_NOT_FOUND"


async def test_search_attrs_keep_nulls(engine: Engine) -> None:
    """The store keeps a name whose value is null; it fits no filter."""
    await engine.create(search_attributes=texts(env="prod"))
    await engine.call("UpsertSearchAttributes", workflow_id="w", attributes={"env": {}}, keep_absent=True)
    assert await shown(engine) == {"env": ""}
    assert not (await engine.call("ListDrivenRuns", filter="attribute.env:* OR attribute.env = null")).runs


@pytest.mark.parametrize(
    ("wanted", "count"),
    [("", 3), ("attribute.env = prod", 2), ("attribute.env = staging", 1), ("attribute.env = x", 0)],
)
async def test_search_attributes_filter_list(engine: Engine, wanted: str, count: int) -> None:
    for name, env in (("w1", "prod"), ("w2", "prod"), ("w3", "staging")):
        await engine.create(name, search_attributes=texts(env=env))
    assert len(await engine.pages("ListDrivenRuns", "runs", filter=wanted, page_size=1)) == count


@answers(TRAIT, "create_snapshot")
@answers(TRAIT, "get_latest_snapshot")
async def test_snapshot_create_and_get_latest(engine: Engine) -> None:
    """The greatest number, not the newest; one of the same number is replaced."""
    await engine.create()
    assert not (await engine.call("GetSnapshot", workflow_id="w")).found
    created = [
        (await engine.call("CreateSnapshot", workflow_id="w", event_seq=seq, state=json(f'{{"n":{seq}}}'))).created
        for seq in (1, 5, 3)
    ]
    assert created == [True, True, True]
    latest = await engine.call("GetSnapshot", workflow_id="w")
    assert (latest.found, latest.snapshot.event_seq, latest.snapshot.state.json) == (True, 5, '{"n":5}')
    assert not (await engine.call("CreateSnapshot", workflow_id="w", event_seq=5, state=json("6"))).created
    assert (await engine.call("GetSnapshot", workflow_id="w")).snapshot.state.json == "6"
    assert (await refusal(engine.call("CreateSnapshot", workflow_id="unknown")))[1] == "RUN_NOT_FOUND"
