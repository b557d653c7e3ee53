"""stem's `PostgresWorkflowStore`: its contract suite (I1) by name, first part: runs, leases and checkpoints."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest
from tests.parity.cases import Engine, answers

from stepwell import reasons
from stepwell.stores.stem import (
    PostgresWorkflowStore,
    WorkflowCancellationPolicy,
    WorkflowStatus,
)
from stepwell.stores.stem.records import RUNTIME_KEY
from stepwell.v1 import mirrors_pb2

TRAIT = mirrors_pb2.TRAIT_STEM_WORKFLOW_STORE
START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def after(seconds: float) -> dt.datetime:
    return START + dt.timedelta(seconds=seconds)


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> dt.datetime:
        return after(self.seconds)


async def saved(store: PostgresWorkflowStore, **values: Any) -> str:
    """A run with those checkpoints; `_` stands for `#` in their names."""
    run_id = await store.createRun(workflow="flow", params={})
    for name, value in values.items():
        await store.saveStep(run_id, name.replace("_", "#"), value)
    return run_id


async def state(store: PostgresWorkflowStore, run_id: str) -> Any:
    found = await store.get(run_id)
    assert found is not None
    return found


@answers(TRAIT, "createRun", "get")
async def test_create_run_persists_metadata_and_cursor_defaults_to_zero(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    run_id = await store.createRun(workflow="flow", params={"a": 1})
    run = await state(store, run_id)
    assert (run.id, run.workflow, run.status, run.cursor, run.params) == (run_id, "flow", "running", 0, {"a": 1})
    assert (run.suspensionData, run.lastError, run.cancellationData, run.ownerId) == ({}, {}, {}, None)
    assert await store.get("unknown") is None


@answers(TRAIT, "createRun")
async def test_create_run_honors_caller_provided_run_id(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    assert await store.createRun(workflow="flow", params={}, runId=" mine ") == "mine"
    assert (await state(store, "mine")).id == "mine"


async def test_create_run_rejects_duplicate_caller_provided_run_id(engine: Engine) -> None:
    store, other = engine.stores(PostgresWorkflowStore, 2)
    run_id = await store.createRun(workflow="flow", params={"a": 1}, runId="mine")
    await store.saveStep(run_id, "s", 1)
    with pytest.raises(reasons.WorkflowIdInUse):
        await other.createRun(workflow="other", params={}, runId="mine")
    run = await state(store, run_id)
    assert (run.workflow, run.params, await store.readStep(run_id, "s")) == ("flow", {"a": 1}, 1)
    await store.markCompleted(run_id, None)
    with pytest.raises(reasons.RunExists):
        await other.createRun(workflow="other", params={}, runId="mine")


async def test_create_run_persists_runtime_metadata_and_workflow_params_strips_internals(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    metadata = {
        "workflowId": "w",
        "orchestrationQueue": "a",
        "continuationQueue": "a-cont",
        "executionQueue": "a-exec",
        "serializationFormat": "json",
        "encryptionScope": "none",
        "streamId": "stream",
    }
    run = await state(store, await store.createRun(workflow="flow", params={"mine": 1, RUNTIME_KEY: metadata}))
    assert (run.params[RUNTIME_KEY], run.workflowParams) == (metadata, {"mine": 1})
    kept = run.runtimeMetadata
    assert {name: getattr(kept, name) for name in metadata} == metadata


@answers(TRAIT, "saveStep", "readStep", "rewindToStep")
async def test_save_step_read_step_rewind(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    run_id = await saved(store, a={"value": 1}, b=2, c="done")
    assert [await store.readStep(run_id, name) for name in "abc"] == [{"value": 1}, 2, "done"]
    await store.rewindToStep(run_id, "b")
    assert [await store.readStep(run_id, name) for name in "abc"] == [{"value": 1}, None, None]
    assert (await state(store, run_id)).cursor == 1


@answers(TRAIT, "saveStep")
async def test_save_step_refreshes_updated_at(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    run_id = await store.createRun(workflow="flow", params={})
    before = (await state(store, run_id)).updatedAt
    await store.saveStep(run_id, "s", 1)
    assert (await state(store, run_id)).updatedAt > before


@answers(TRAIT, "rewindToStep", "get")
async def test_auto_version_checkpoints(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    run_id = await saved(store, repeat_0="a", repeat_1="b", tail="c")
    assert (await state(store, run_id)).cursor == 2
    await store.rewindToStep(run_id, "repeat")
    assert [await store.readStep(run_id, name) for name in ("repeat#0", "repeat#1", "tail")] == [None] * 3
    run = await state(store, run_id)
    assert (run.cursor, run.status) == (0, "suspended")
    assert run.suspensionData == {"step": "repeat", "iteration": 0, "iterationStep": "repeat"}


@answers(TRAIT, "listRuns")
async def test_list_runs_reports_logical_cursor(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    run_id = await saved(store, repeat_0="a", repeat_1="b", tail="c")
    assert [(run.id, run.cursor) for run in await store.listRuns()] == [(run_id, 2)]
    await store.rewindToStep(run_id, "repeat")
    (run,) = await store.listRuns()
    assert (run.cursor, run.status, run.suspensionData["iteration"]) == (0, "suspended", 0)


@answers(TRAIT, "claimRun", "renewRunLease", "releaseRun", "listRunnableRuns")
async def test_claim_run_leases(engine: Engine) -> None:
    clock = Clock()
    store, other = engine.stores(PostgresWorkflowStore, 2, clock=clock)
    run_id, lease = await store.createRun(workflow="flow", params={}), dt.timedelta(seconds=5)
    assert await store.listRunnableRuns() == [run_id]
    assert await store.claimRun(run_id, ownerId="A", leaseDuration=lease)
    assert not await other.claimRun(run_id, ownerId="B", leaseDuration=lease)
    assert await store.listRunnableRuns() == []
    clock.seconds = 6
    assert await store.listRunnableRuns() == [run_id]
    assert await other.claimRun(run_id, ownerId="B", leaseDuration=lease)
    assert await other.renewRunLease(run_id, ownerId="B", leaseDuration=lease)
    assert not await other.renewRunLease(run_id, ownerId="C", leaseDuration=lease)
    assert not await store.renewRunLease(run_id, ownerId="A", leaseDuration=lease)
    assert (await state(store, run_id)).ownerId == "B"
    await store.releaseRun(run_id, ownerId="A")
    assert await store.listRunnableRuns() == []
    await other.releaseRun(run_id, ownerId="B")
    assert await store.listRunnableRuns() == [run_id]


async def test_whose_lease_went_to_another_writes_no_more(engine: Engine) -> None:
    """Which stem lets pass."""
    clock = Clock()
    store, other = engine.stores(PostgresWorkflowStore, 2, clock=clock)
    run_id = await store.createRun(workflow="flow", params={})
    assert await store.claimRun(run_id, ownerId="A")
    clock.seconds = 31
    assert await other.claimRun(run_id, ownerId="B")
    with pytest.raises(reasons.LeaseLost):
        await store.saveStep(run_id, "s", "A")
    await other.saveStep(run_id, "s", "B")
    await other.markCompleted(run_id, None)
    assert await store.readStep(run_id, "s") == "B"


@answers(TRAIT, "claimRun")
async def test_concurrent_claims_have_one_winner(engine: Engine) -> None:
    stores = engine.stores(PostgresWorkflowStore, 8)
    run_id = await stores[0].createRun(workflow="flow", params={})
    claims = await asyncio.gather(*(store.claimRun(run_id, ownerId=f"o{n}") for n, store in enumerate(stores)))
    assert sorted(claims) == [False] * 7 + [True]


@answers(TRAIT, "listRunnableRuns", "listRuns")
async def test_list_runnable_runs_excludes_suspended_runs(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    ids = [await store.createRun(workflow="flow", params={}) for _ in range(4)]
    await store.suspendUntil(ids[0], "s", after(1))
    assert await store.listRunnableRuns() == ids[1:]
    assert await store.listRunnableRuns(limit=1, offset=1) == [ids[2]]
    assert [run.id for run in await store.listRuns(limit=2, offset=1)] == [ids[3], ids[2]]


@answers(TRAIT, "markCompleted", "get")
async def test_mark_completed_stores_result(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    run_id = await store.createRun(workflow="flow", params={})
    await store.suspendUntil(run_id, "s", after(1), data={"a": 1})
    await store.markCompleted(run_id, {"output": "ok"})
    run = await state(store, run_id)
    assert (run.status, run.isTerminal, run.result, run.suspensionData) == ("completed", True, {"output": "ok"}, {})
    with pytest.raises(reasons.RunTerminal):
        await store.markFailed(run_id, "late", "", terminal=True)


@answers(TRAIT, "markFailed")
async def test_mark_failed(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    run_id = await store.createRun(workflow="flow", params={})
    await store.markFailed(run_id, ValueError("boom"), "here")
    run = await state(store, run_id)
    assert (run.status, run.lastError) == ("running", {"error": "boom", "stack": "here"})
    await store.markFailed(run_id, ValueError("again"), "there", terminal=True)
    run = await state(store, run_id)
    assert (run.status, run.lastError["error"]) == ("failed", "again")


@answers(TRAIT, "listRuns")
async def test_list_runs_filters(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    first = await store.createRun(workflow="a", params={"n": 1})
    second = await store.createRun(workflow="b", params={"n": 2})
    await store.markCompleted(first, "done")
    assert [run.id for run in await store.listRuns()] == [first, second]
    (one,) = await store.listRuns(workflow="a")
    assert (one.id, one.status, one.result, one.params) == (first, "completed", "done", {"n": 1})
    assert [run.id for run in await store.listRuns(status=WorkflowStatus.completed)] == [first]
    assert [run.id for run in await store.listRuns(status=WorkflowStatus.running)] == [second]


@answers(TRAIT, "listSteps")
async def test_list_steps_in_execution_order(engine: Engine) -> None:
    """Which is not that of their names."""
    store = engine.store(PostgresWorkflowStore)
    values = {"z": 1, "step-10": 2, "step-2": 3, "a": 4}
    listed = await store.listSteps(await saved(store, **values))
    assert [(entry.name, entry.value, entry.position) for entry in listed] == [
        (name, value, value - 1) for name, value in values.items()
    ]
    assert all(entry.completedAt is not None for entry in listed)


@answers(TRAIT, "listSteps")
async def test_list_steps_in_versioned_order(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    run_id = await saved(store, **{f"repeat_{n}": n for n in range(11)}, tail=11)
    listed = await store.listSteps(run_id)
    assert [entry.name for entry in listed] == [*(f"repeat#{n}" for n in range(11)), "tail"]
    assert [entry.value for entry in listed] == list(range(12))


async def test_cancellation_policy_is_persisted(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    policy = WorkflowCancellationPolicy(
        maxRunDuration=dt.timedelta(minutes=5), maxSuspendDuration=dt.timedelta(minutes=1)
    )
    run = await state(store, await store.createRun(workflow="flow", params={}, cancellationPolicy=policy))
    assert (run.cancellationPolicy, run.cancellationPolicy.isEmpty) == (policy, False)
    assert run.createdAt.tzinfo is not None


@answers(TRAIT, "cancel")
async def test_cancel_reason_is_persisted(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    run_id = await store.createRun(workflow="flow", params={})
    await store.cancel(run_id, reason="maxRunDuration")
    run = await state(store, run_id)
    assert (run.status, run.cancellationData["reason"]) == ("cancelled", "maxRunDuration")
    await store.cancel(run_id, reason="again")
    assert (await state(store, run_id)).cancellationData["reason"] == "maxRunDuration"
