"""Vyuh's `WorkflowInstanceRepository`, method by method, through its class; and its suggested checks on instances."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.parity.cases import Engine, answers

from stepwell import reasons
from stepwell.stores.vyuh import (
    RawWorkflow,
    WorkflowError,
    WorkflowInstance,
    WorkflowInstanceQuery,
    WorkflowInstanceRepository,
    WorkflowStatus,
    WorkflowStorage,
    WorkflowToken,
)
from stepwell.v1 import mirrors_pb2

TRAIT = mirrors_pb2.TRAIT_VYUH_WORKFLOW_STORAGE
S = WorkflowStatus
TIME = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
TOKENS = [
    WorkflowToken(id="t1", currentNodeId="a", isActive=False, createdAt=TIME),
    WorkflowToken(id="t2", currentNodeId="b", previousNodeId="a", branchId="left", parentTokenId="t1"),
]


async def kept(engine: Engine, *ids: str, **fields: Any) -> tuple[WorkflowInstanceRepository, str]:
    """The repository with instances of a definition, and the definition's id."""
    storage = engine.store(WorkflowStorage)
    workflow = await storage.workflows.create(RawWorkflow(code=f"c-{uuid.uuid4().hex[:8]}"))
    for each in ids:
        await storage.instances.create(WorkflowInstance(id=each, workflowId=workflow.id, **fields))
    return storage.instances, workflow.id


def ids(found: Sequence[WorkflowInstance]) -> list[str]:
    return [each.id for each in found]


@answers(TRAIT, "instances.create")
async def test_create(engine: Engine) -> None:
    """All of the record is kept; an id is given once, and a definition must be there."""
    instances, workflow_id = await kept(engine, "parent")
    given = WorkflowInstance(
        id="i",
        workflowId=workflow_id,
        workflowVersion=1,
        status=S.running,
        input={"a": 1},
        output={"a": 1},
        tokens=TOKENS,
        runNumber=2,
        parentInstanceId="parent",
        parentNodeId="n",
        startedAt=TIME,
        correlationId="c",
        metadata={"m": [1, None]},
        variables={"v": "x"},
    )
    made = await instances.create(given)
    assert made.createdAt is not None
    assert (made.updatedAt, made.version) == (made.createdAt, 1)
    assert replace(made, createdAt=None, updatedAt=None, version=None) == given
    with pytest.raises((reasons.WorkflowIdInUse, reasons.RunExists)):
        await instances.create(given)
    with pytest.raises(reasons.DefinitionNotFound):
        await instances.create(replace(given, id="other", workflowVersion=2))
    waiting = await instances.create(WorkflowInstance(id="w", workflowId=workflow_id, status=S.waitingForUser))
    assert (waiting.status, waiting.workflowVersion) == (S.waitingForUser, 1)


@answers(TRAIT, "instances.getById")
async def test_get_by_id(engine: Engine) -> None:
    instances, workflow_id = await kept(engine, "i", output={"x": 1}, tokens=TOKENS)
    found = await instances.getById("i")
    assert found is not None
    assert (found.id, found.workflowId, found.status, found.output, found.tokens) == (
        "i",
        workflow_id,
        S.pending,
        {"x": 1},
        TOKENS,
    )
    assert await instances.getById("unknown") is None


@answers(TRAIT, "instances.query")
async def test_query(engine: Engine) -> None:
    instances, workflow_id = await kept(engine, "a", "b", "c", correlationId="k")
    other, _ = await kept(engine, "d")
    for name, status in (("a", S.running), ("b", S.waitingForUser), ("d", S.running)):
        assert await other.updateStatus(name, status)

    async def found(**fields: Any) -> list[str]:
        return ids(await instances.query(WorkflowInstanceQuery(**fields)))

    assert await found() == ["d", "c", "b", "a"]
    assert await found(statuses=[S.running, S.waitingForUser]) == ["d", "b", "a"]
    assert await found(statuses=[S.running], workflowId=workflow_id) == ["a"]
    assert await found(correlationId="k", limit=2, offset=1) == ["b", "a"]
    second = await instances.getById("b")
    assert second is not None
    assert await found(createdAfter=second.createdAt) == ["d", "c", "b"]
    assert await found(createdBefore=second.createdAt) == ["a"]


@answers(TRAIT, "instances.listByDefinition")
async def test_list_by_definition(engine: Engine) -> None:
    instances, workflow_id = await kept(engine, "a", "b", "c")
    await kept(engine, "other")
    assert ids(await instances.listByDefinition(workflow_id)) == ["c", "b", "a"]
    assert ids(await instances.listByDefinition(workflow_id, limit=1, offset=1)) == ["b"]
    assert await instances.listByDefinition(str(uuid.uuid4())) == []


@answers(TRAIT, "instances.listByStatus")
async def test_list_by_status(engine: Engine) -> None:
    """Each of the eight, and no instance in two of them."""
    instances, workflow_id = await kept(engine)
    for status in S:
        made = await instances.create(WorkflowInstance(id=f"i-{status}", workflowId=workflow_id, status=status))
        assert made.status is status
    assert {status: ids(await instances.listByStatus(status)) for status in S} == {s: [f"i-{s}"] for s in S}
    assert ids(await instances.listByStatus(S.failed, limit=1, offset=1)) == []


@answers(TRAIT, "instances.listActive")
async def test_list_active(engine: Engine) -> None:
    instances, workflow_id = await kept(engine)
    for status in S:
        await instances.create(WorkflowInstance(id=str(status), workflowId=workflow_id, status=status))
    active = ["waitingForSignal", "waitingForUser", "paused", "running", "pending"]
    assert ids(await instances.listActive()) == active
    assert ids(await instances.listActive(limit=2, offset=1)) == active[1:3]


@answers(TRAIT, "instances.getByCorrelationId")
async def test_get_by_correlation_id(engine: Engine) -> None:
    """Children/correlation: open and ended."""
    instances, _ = await kept(engine, "a", "b", correlationId="k")
    await kept(engine, "c", correlationId="K")
    assert await instances.updateStatus("a", S.completed)
    assert ids(await instances.getByCorrelationId("k")) == ["b", "a"]
    assert await instances.getByCorrelationId("unknown") == []


@answers(TRAIT, "instances.getChildInstances")
async def test_get_child_instances(engine: Engine) -> None:
    instances, _ = await kept(engine, "parent", "stranger")
    await kept(engine, "a", "b", parentInstanceId="parent", output={"o": 1})
    assert await instances.updateStatus("a", S.cancelled)
    children = await instances.getChildInstances("parent")
    assert [(each.id, each.parentInstanceId, each.output) for each in children] == [
        ("b", "parent", {"o": 1}),
        ("a", "parent", {"o": 1}),
    ]
    assert await instances.getChildInstances("unknown") == []


@answers(TRAIT, "instances.update")
async def test_update(engine: Engine) -> None:
    """Status, output and tokens together; of two who read the same, one wins, and the other hears of it."""
    instances, _ = await kept(engine, "i", status=S.running)
    read = await instances.getById("i")
    assert read is not None
    changed = await instances.update(
        replace(read, status=S.waitingForSignal, output={"o": 1}, tokens=TOKENS, variables={"v": 2})
    )
    assert (changed.status, changed.output, changed.tokens, changed.variables) == (
        S.waitingForSignal,
        {"o": 1},
        TOKENS,
        {"v": 2},
    )
    with pytest.raises(reasons.RunDataChanged):
        await instances.update(replace(read, status=S.completed))
    error = WorkflowError(errorType="timeout", message="too long", isRetryable=True)
    failed = await instances.update(replace(changed, status=S.failed, error=error, tokens=[]))
    assert (failed.status, failed.error, failed.tokens, failed.output) == (S.failed, error, [], {"o": 1})
    assert failed.finishedAt is not None
    with pytest.raises(reasons.RunTerminal):
        await instances.update(failed)
    with pytest.raises(reasons.RunNotFound):
        await instances.update(replace(read, id="unknown"))


@answers(TRAIT, "instances.updateStatus")
async def test_update_status(engine: Engine) -> None:
    instances, _ = await kept(engine, "i")
    for status in (S.running, S.paused, S.running, S.waitingForUser, S.paused, S.waitingForSignal, S.running):
        assert await instances.updateStatus("i", status)
        found = await instances.getById("i")
        assert found is not None
        assert found.status is status
    with pytest.raises(reasons.RunPhaseConflict):
        await instances.updateStatus("i", S.pending)
    assert await instances.updateStatus("i", S.completed)
    with pytest.raises(reasons.RunTerminal):
        await instances.updateStatus("i", S.running)
    assert not await instances.updateStatus("unknown", S.running)


@answers(TRAIT, "instances.updateOutput")
async def test_update_output(engine: Engine) -> None:
    """Replaced, or merged where that is asked for; merges at the same time lose nothing."""
    instances, _ = await kept(engine, "i", output={"a": 1}, variables={"v": 1})
    assert await instances.updateOutput("i", {"b": 2})
    storages = engine.stores(WorkflowStorage, 4)
    merged = [each.instances.updateOutput("i", {f"k{n}": n}, merge=True) for n, each in enumerate(storages)]
    assert await asyncio.gather(*merged) == [True] * 4
    found = await instances.getById("i")
    assert found is not None
    assert (found.output, found.variables) == ({"b": 2, "k0": 0, "k1": 1, "k2": 2, "k3": 3}, {"v": 1})
    assert not await instances.updateOutput("unknown", {})


@answers(TRAIT, "instances.updateTokens")
async def test_update_tokens(engine: Engine) -> None:
    instances, _ = await kept(engine, "i", output={"a": 1})
    assert await instances.updateTokens("i", TOKENS)
    found = await instances.getById("i")
    assert found is not None
    assert (found.tokens, found.output) == (TOKENS, {"a": 1})
    assert not await instances.updateTokens("unknown", TOKENS)


@answers(TRAIT, "instances.delete")
async def test_delete(engine: Engine) -> None:
    """Open or ended; what it followed may be deleted then."""
    instances, workflow_id = await kept(engine, "a", "b")
    storage = engine.store(WorkflowStorage)
    workflow = await storage.workflows.getById(workflow_id)
    assert workflow is not None
    with pytest.raises(reasons.DefinitionInUse):
        await storage.workflows.delete(workflow.code)
    assert await instances.updateStatus("b", S.completed)
    assert [await instances.delete(name) for name in ("a", "b", "a")] == [True, True, False]
    assert await instances.getById("a") is None
    assert await storage.workflows.delete(workflow.code)


@answers(TRAIT, "instances.getStaleRunningInstances")
async def test_get_stale_running_instances(engine: Engine) -> None:
    """Stale threshold includes only running & old."""
    instances, _ = await kept(engine, "a", "b", "c", "d", status=S.running)
    assert await instances.updateStatus("c", S.waitingForSignal)
    assert await instances.updateStatus("d", S.paused)
    assert ids(await instances.getStaleRunningInstances(staleThreshold=dt.timedelta(0))) == ["b", "a"]
    assert await instances.getStaleRunningInstances(staleThreshold=dt.timedelta(hours=1)) == []


async def test_an_instance_whose_data_is_too_large_for_a_message_is_whole(engine: Engine) -> None:
    large = {"x": "x" * 1_500_000}
    instances, _ = await kept(engine, "i", output=large, variables=large)
    assert await instances.updateTokens("i", [replace(TOKENS[0], id="x" * 1_500_000)])
    found = await instances.getById("i")
    assert found is not None
    assert (found.output, found.variables, len(found.tokens[0].id)) == (large, large, 1_500_000)
