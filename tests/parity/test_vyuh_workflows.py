"""Vyuh's `WorkflowRepository`, method by method, through its class; and its suggested checks on versions."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace

import pytest
from tests.parity.cases import Engine, answers

from stepwell.reasons import DefinitionChanged, DefinitionExists, DefinitionNotFound
from stepwell.stores.vyuh import RawWorkflow, WorkflowRepository, WorkflowStorage
from stepwell.v1 import mirrors_pb2

TRAIT = mirrors_pb2.TRAIT_VYUH_WORKFLOW_STORAGE
NODES = [{"id": "start", "type": "start"}, {"id": "end", "type": "end"}]
EDGES = [{"source": "start", "target": "end"}]


def repository(engine: Engine) -> WorkflowRepository:
    return engine.store(WorkflowStorage).workflows


def raw(version: int = 1, code: str = "order", **fields: object) -> RawWorkflow:
    given = {"name": "Orders", "nodes": NODES, "edges": EDGES, "metadata": {"team": "a"}, **fields}
    return RawWorkflow(code=code, version=version, **given)  # type: ignore[arg-type]


@answers(TRAIT, "workflows.create")
async def test_create(engine: Engine) -> None:
    """Its own id is kept; a second one of the version, or of the id, is refused."""
    workflows, own = repository(engine), str(uuid.uuid4())
    made = await workflows.create(raw(id=own))
    assert (made.id, made.version, made.revision, made.createdAt) == (own, 1, 1, made.updatedAt)
    for again in (raw(), raw(2, id=own)):
        with pytest.raises(DefinitionExists):
            await workflows.create(again)
    assert [each.version for each in await workflows.getAllVersions("order")] == [1]


@answers(TRAIT, "workflows.getById")
async def test_get_by_id(engine: Engine) -> None:
    workflows = repository(engine)
    made = await workflows.create(raw(description="what it is for"))
    found = await workflows.getById(made.id)
    assert found == made
    assert found is not None
    assert (found.nodes, found.edges, found.metadata, found.isActive) == (NODES, EDGES, {"team": "a"}, True)
    assert await workflows.getById(str(uuid.uuid4())) is None


@answers(TRAIT, "workflows.getByCode")
async def test_get_by_code(engine: Engine) -> None:
    """Create v1, v2 → getByCode returns v2, version=1 returns v1."""
    workflows = repository(engine)
    for version in (1, 2):
        await workflows.create(raw(version, name=f"Orders {version}"))
    found = [await workflows.getByCode("order", version) for version in (None, 1, 2, 3)]
    assert [each and (each.version, each.name) for each in found] == [
        (2, "Orders 2"),
        (1, "Orders 1"),
        (2, "Orders 2"),
        None,
    ]
    assert await workflows.getByCode("unknown") is None


@answers(TRAIT, "workflows.getNextVersion")
async def test_get_next_version(engine: Engine) -> None:
    """Create v1, v2 → getNextVersion 3; 1 of an unknown code."""
    workflows = repository(engine)
    for version in (1, 2):
        await workflows.create(raw(version))
    assert await workflows.getNextVersion("order") == 3
    assert await workflows.getNextVersion("unknown") == 1


@answers(TRAIT, "workflows.getAllVersions")
async def test_get_all_versions(engine: Engine) -> None:
    workflows = repository(engine)
    for version in (2, 1, 10):
        await workflows.create(raw(version))
    await workflows.create(raw(code="other"))
    found = await workflows.getAllVersions("order")
    assert [(each.version, each.nodes) for each in found] == [(10, NODES), (2, NODES), (1, NODES)]
    assert await workflows.getAllVersions("unknown") == []


@answers(TRAIT, "workflows.list")
async def test_list(engine: Engine) -> None:
    """Deactivate excluded from activeOnly."""
    workflows = repository(engine)
    for code in ("c", "a", "b"):
        await workflows.create(raw(code=code, isActive=code != "b"))
    assert [each.code for each in await workflows.list()] == ["a", "b", "c"]
    assert [each.code for each in await workflows.list(limit=1, offset=1)] == ["b"]
    assert [(each.code, each.edges) for each in await workflows.list(activeOnly=True)] == [("a", EDGES), ("c", EDGES)]


@answers(TRAIT, "workflows.search")
async def test_search(engine: Engine) -> None:
    """Search case-insensitive; by name or code, to the letter."""
    workflows = repository(engine)
    for code, name in (("order-intake", "Intake"), ("ship", "Shipping of ORDERS"), ("pay", "100%"), ("pay_2", "Pay")):
        await workflows.create(raw(code=code, name=name))
    found = {text: [each.code for each in await workflows.search(text)] for text in ("oRdEr", "%", "_", "", "nothing")}
    assert found == {
        "oRdEr": ["order-intake", "ship"],
        "%": ["pay"],
        "_": ["pay_2"],
        "": ["order-intake", "pay", "pay_2", "ship"],
        "nothing": [],
    }
    assert len(await workflows.search("", limit=3)) == 3


@answers(TRAIT, "workflows.update")
async def test_update(engine: Engine) -> None:
    """Of two who read the same, one wins, and the other hears of it."""
    workflows = repository(engine)
    made = await workflows.create(raw())
    changed = await workflows.update(replace(made, name="New", nodes=[], isActive=False))
    found = await workflows.getById(made.id)
    assert found == changed
    assert found is not None
    assert (found.name, found.nodes, found.isActive, found.revision) == ("New", [], False, 2)
    with pytest.raises(DefinitionChanged):
        await workflows.update(replace(made, name="Late"))
    with pytest.raises(DefinitionNotFound):
        await workflows.update(raw(id=str(uuid.uuid4())))


@answers(TRAIT, "workflows.delete")
async def test_delete(engine: Engine) -> None:
    """Delete unknown false."""
    workflows = repository(engine)
    for version in (1, 2, 3):
        await workflows.create(raw(version))
    assert [await workflows.delete("order", 2) for _ in range(2)] == [True, False]
    assert [each.version for each in await workflows.getAllVersions("order")] == [3, 1]
    assert [await workflows.delete("order") for _ in range(2)] == [True, False]
    assert not await workflows.codeExists("order")


@answers(TRAIT, "workflows.activate")
async def test_activate(engine: Engine) -> None:
    workflows = repository(engine)
    for version in (1, 2):
        await workflows.create(raw(version, isActive=False))
    assert await workflows.activate("order", 1)
    assert [each.version for each in await workflows.list(activeOnly=True)] == [1]
    assert await workflows.activate("order")
    assert [each.version for each in await workflows.list(activeOnly=True)] == [1, 2]
    assert not await workflows.activate("unknown")


@answers(TRAIT, "workflows.deactivate")
async def test_deactivate(engine: Engine) -> None:
    workflows = repository(engine)
    for version in (1, 2):
        await workflows.create(raw(version))
    assert await workflows.deactivate("order", 1)
    assert [each.version for each in await workflows.list(activeOnly=True)] == [2]
    assert await workflows.deactivate("order")
    assert await workflows.list(activeOnly=True) == []
    assert not await workflows.deactivate("order", 3)


@answers(TRAIT, "workflows.codeExists")
async def test_code_exists(engine: Engine) -> None:
    workflows = repository(engine)
    await workflows.create(raw())
    assert await workflows.codeExists("order")
    assert not await workflows.codeExists("Order")


async def test_the_storage_is_healthy_until_it_is_disposed(engine: Engine) -> None:
    storage = engine.store(WorkflowStorage)
    await storage.initialize()
    assert await storage.healthCheck()
    gone = WorkflowStorage.connect("127.0.0.1:1", call_timeout=0.2)
    assert not await gone.healthCheck()
    await gone.dispose()


async def test_versions_made_at_the_same_time_are_different(engine: Engine) -> None:
    """Over several connections and two replicas."""
    storages = engine.stores(WorkflowStorage, 8)
    made = await asyncio.gather(*(each.workflows.create(raw(0)) for each in storages for _ in range(3)))
    assert sorted(each.version for each in made) == list(range(1, 25))
    versions = [each.version for each in await repository(engine).getAllVersions("order")]
    assert versions == list(range(24, 0, -1))
