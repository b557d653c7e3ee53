"""FlowOrchestrator: its run store's cases, claims under concurrency, terminal rule and retry cascade, by name."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from tests.parity.cases import Engine, answers

from stepwell.reasons import RunTerminal, StepStateConflict
from stepwell.stores.flow_orchestrator import (
    PREREQUISITES_UNMET,
    FlowRunRecord,
    FlowRunStore,
    FlowStepRecord,
    RunStatus,
    StepStatus,
    terminal_status,
)
from stepwell.v1 import mirrors_pb2

TRAIT = mirrors_pb2.TRAIT_FLOW_RUN_STORE
FLOW = str(uuid4())
FAILED, SKIPPED, SUCCEEDED = StepStatus.Failed, StepStatus.Skipped, StepStatus.Succeeded


async def started(store: FlowRunStore) -> str:
    run_id = str(uuid4())
    await store.StartRunAsync(FLOW, "Pay", run_id, "manual")
    return run_id


async def done(store: FlowRunStore, run_id: str, key: str, status: str = "Succeeded", error: str | None = None) -> None:
    await store.RecordStepStartAsync(run_id, key, "call", '{"in": 1}', f"job-{key}")
    await store.RecordStepCompleteAsync(run_id, key, status, '{"out": 1}', error)


async def detail(store: FlowRunStore, run_id: str) -> FlowRunRecord:
    found = await store.GetRunDetailAsync(run_id)
    assert found is not None
    return found


async def steps_of(store: FlowRunStore, run_id: str) -> dict[str, FlowStepRecord]:
    return {step.StepKey: step for step in (await detail(store, run_id)).Steps or ()}


# --- run store, 2 to 4 and 8 ------------------------------------------------------------------------------------------


@answers(TRAIT, "RecordStepStartAsync", "RecordStepCompleteAsync", "CompleteRunAsync", "GetRunDetailAsync")
async def test_Full_run_state_machine(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    run_id = await started(store)
    await done(store, run_id, "step1")
    await store.CompleteRunAsync(run_id, "Succeeded")
    run = await detail(store, run_id)
    assert (run.Status, run.CompletedAt is None) == (RunStatus.Succeeded, False)
    (step,) = run.Steps or ()
    assert (step.StepKey, step.Status, step.StepType, step.JobId) == ("step1", SUCCEEDED, "call", "job-step1")
    assert (step.InputJson, step.OutputJson, step.AttemptCount) == ('{"in": 1}', '{"out": 1}', 1)
    (attempt,) = step.Attempts
    assert (attempt.Attempt, attempt.Status, attempt.OutputJson) == (1, SUCCEEDED, '{"out": 1}')


@answers(TRAIT, "RecordStepStartAsync", "RecordStepCompleteAsync", "GetRunDetailAsync")
async def test_RecordStepStart_increments_attempt_counter(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    run_id = await started(store)
    await done(store, run_id, "s", "Failed", "boom")
    await done(store, run_id, "s")
    step = (await steps_of(store, run_id))["s"]
    assert [(each.Attempt, each.Status, each.ErrorMessage) for each in step.Attempts] == [
        (1, FAILED, "boom"),
        (2, SUCCEEDED, None),
    ]
    assert (step.AttemptCount, step.ErrorMessage) == (2, None)


@answers(TRAIT, "RecordStepCompleteAsync", "GetRunDetailAsync", "GetStepStatusesAsync")
async def test_attempt_history_keeps_Pending_then_Succeeded(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    run_id = await started(store)
    await done(store, run_id, "s", "Pending")
    assert await store.GetStepStatusesAsync(run_id) == {"s": StepStatus.Pending}
    await done(store, run_id, "s")
    step = (await steps_of(store, run_id))["s"]
    assert [each.Status for each in step.Attempts] == [StepStatus.Pending, SUCCEEDED]
    assert step.AttemptCount == 2


@answers(TRAIT, "GetRunDetailAsync")
async def test_GetRunDetail_returns_null_for_unknown_run(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    assert await store.GetRunDetailAsync(str(uuid4())) is None
    assert (await detail(store, await started(store))).Steps == ()


@answers(TRAIT, "RetryStepAsync", "GetStepStatusesAsync")
async def test_RetryStep_resets_step_and_run_to_Running(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    run_id = await started(store)
    assert await store.TryClaimStepAsync(run_id, "s")
    await store.TryRecordDispatchAsync(run_id, "s")
    await done(store, run_id, "s", "Failed", "boom")
    await store.CompleteRunAsync(run_id, "Failed")
    await store.RetryStepAsync(run_id, "s")
    assert await store.GetStepStatusesAsync(run_id) == {"s": StepStatus.Running}
    assert await store.GetRunStatusAsync(run_id) == RunStatus.Running
    assert await store.GetDispatchedStepKeysAsync(run_id) == set()
    step = (await steps_of(store, run_id))["s"]
    assert (step.AttemptCount, step.OutputJson, step.ErrorMessage, step.CompletedAt) == (1, None, None, None)
    assert await store.TryClaimStepAsync(run_id, "s")


@answers(TRAIT, "RecordSkippedStepAsync", "GetRunDetailAsync")
async def test_a_skipped_step_is_an_attempt_with_its_trace(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    run_id = await started(store)
    await store.RecordSkippedStepAsync(run_id, "s", "call", "why", '{"when": false}')
    step = (await steps_of(store, run_id))["s"]
    assert (step.Status, step.ErrorMessage, step.EvaluationTraceJson) == (SKIPPED, "why", '{"when": false}')
    (attempt,) = step.Attempts
    assert (attempt.Status, attempt.ErrorMessage, attempt.EvaluationTraceJson) == (SKIPPED, "why", '{"when": false}')


@answers(TRAIT, "RecordStepCompleteAsync", "CompleteRunAsync")
async def test_a_late_writer_is_refused(engine: Engine) -> None:
    """Ours: the store's last writer wins."""
    store = engine.store(FlowRunStore)
    run_id = await started(store)
    await done(store, run_id, "s")
    with pytest.raises(StepStateConflict):
        await store.RecordStepCompleteAsync(run_id, "s", "Failed", None, "late")
    await store.CompleteRunAsync(run_id, "Succeeded")
    with pytest.raises(RunTerminal):
        await store.CompleteRunAsync(run_id, "Failed")
    assert (await steps_of(store, run_id))["s"].Status == SUCCEEDED
    assert await store.GetRunStatusAsync(run_id) == RunStatus.Succeeded


# --- claims -----------------------------------------------------------------------------------------------------------


@answers(TRAIT, "TryClaimStepAsync")
async def test_64_parallel_TryClaim_exactly_one(engine: Engine) -> None:
    stores = engine.stores(FlowRunStore, 8)
    run_id = await started(stores[0])
    won = await asyncio.gather(*(stores[n % 8].TryClaimStepAsync(run_id, "s") for n in range(64)))
    assert sum(won) == 1


@answers(TRAIT, "TryClaimStepAsync", "GetClaimedStepKeysAsync")
async def test_64_claims_on_a_loop_s_child(engine: Engine) -> None:
    stores = engine.stores(FlowRunStore, 8)
    run_id = await started(stores[0])
    won = await asyncio.gather(*(stores[n % 8].TryClaimStepAsync(run_id, "loop.3.child") for n in range(64)))
    assert sum(won) == 1
    assert await stores[0].GetClaimedStepKeysAsync(run_id) == {"loop.3.child"}


@answers(TRAIT, "ReleaseStepClaimAsync", "GetClaimedStepKeysAsync", "GetStepStatusesAsync")
async def test_a_claim_is_released_and_ends_with_its_step(engine: Engine) -> None:
    """A step that is merely claimed has no status."""
    store = engine.store(FlowRunStore)
    run_id = await started(store)
    for key in ("a", "b"):
        assert await store.TryClaimStepAsync(run_id, key)
    assert await store.GetStepStatusesAsync(run_id) == {}
    await store.ReleaseStepClaimAsync(run_id, "a")
    await store.ReleaseStepClaimAsync(run_id, "a")
    assert await store.GetClaimedStepKeysAsync(run_id) == {"b"}
    assert await store.TryClaimStepAsync(run_id, "a")
    await done(store, run_id, "b")
    assert await store.GetClaimedStepKeysAsync(run_id) == {"a"}
    assert await store.GetStepStatusesAsync(run_id) == {"b": SUCCEEDED}
    assert await store.GetClaimedStepKeysAsync(str(uuid4())) == set()


# --- retry cascade ----------------------------------------------------------------------------------------------------


@answers(TRAIT, "RetryStepAsync", "RecordSkippedStepAsync", "GetStepStatusesAsync")
async def test_retry_cascade_a_b_c(engine: Engine) -> None:
    """B fails, c is skipped, the run fails; b is retried, c is done, all succeed."""
    store = engine.store(FlowRunStore)
    run_id = await started(store)
    await done(store, run_id, "a")
    await done(store, run_id, "b", "Failed", "boom")
    await store.RecordSkippedStepAsync(run_id, "c", "call", PREREQUISITES_UNMET)
    await store.CompleteRunAsync(run_id, "Failed")
    await store.RetryStepAsync(run_id, "b", ["c"])
    assert await store.GetStepStatusesAsync(run_id) == {"a": SUCCEEDED, "b": StepStatus.Running}
    for key in "bc":
        assert await store.TryClaimStepAsync(run_id, key)
        await done(store, run_id, key)
    assert await store.GetStepStatusesAsync(run_id) == dict.fromkeys("abc", SUCCEEDED)
    await store.CompleteRunAsync(run_id, "Succeeded")
    assert (await steps_of(store, run_id))["c"].AttemptCount == 2


@answers(TRAIT, "RetryStepAsync", "GetStepStatusesAsync")
async def test_retry_cascade_leaves_d_that_was_never_reached(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    run_id = await started(store)
    await done(store, run_id, "b", "Failed", "boom")
    await store.RecordSkippedStepAsync(run_id, "c", "call", PREREQUISITES_UNMET)
    await store.CompleteRunAsync(run_id, "Failed")
    await store.RetryStepAsync(run_id, "b", ["c", "d"])
    for key in "bcd":
        await done(store, run_id, key)
    assert await store.GetStepStatusesAsync(run_id) == dict.fromkeys("bcd", SUCCEEDED)


@answers(TRAIT, "RetryStepAsync", "GetStepStatusesAsync")
async def test_a_skip_for_a_different_reason_stays_Skipped(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    run_id = await started(store)
    await done(store, run_id, "b", "Failed", "boom")
    await store.RecordSkippedStepAsync(run_id, "c", "call", "When clause 'x' evaluated to false (1).")
    await store.RetryStepAsync(run_id, "b", ["c"])
    assert await store.GetStepStatusesAsync(run_id) == {"b": StepStatus.Running, "c": SKIPPED}


@answers(TRAIT, "RetryStepAsync", "GetRunDetailAsync")
async def test_three_retries_then_success_is_four_attempts(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    run_id = await started(store)
    for _ in range(3):
        await done(store, run_id, "s", "Failed", "boom")
        await store.CompleteRunAsync(run_id, "Failed")
        await store.RetryStepAsync(run_id, "s")
    await done(store, run_id, "s")
    assert [each.Attempt for each in (await steps_of(store, run_id))["s"].Attempts] == [1, 2, 3, 4]


# --- terminal rule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "run_after", "expected"),
    [
        pytest.param({"a": FAILED, "b": SKIPPED}, {"b": ["a"]}, RunStatus.Failed, id="Failed and Skipped"),
        pytest.param({"a": SKIPPED, "b": SKIPPED}, {"b": ["a"]}, RunStatus.Skipped, id="only Skipped"),
        pytest.param({}, {}, RunStatus.Failed, id="empty"),
        pytest.param({"a": FAILED, "b": SUCCEEDED}, {}, RunStatus.Failed, id="unrelated success and failure"),
        pytest.param({"a": FAILED, "b": SUCCEEDED}, {"b": ["a"]}, RunStatus.Succeeded, id="failure with a handler"),
        pytest.param({"a": SUCCEEDED, "b": SKIPPED}, {"b": ["a"]}, RunStatus.Skipped, id="all leaves skipped"),
        pytest.param(
            {"a": SUCCEEDED, "b": SKIPPED, "c": SUCCEEDED},
            {"b": ["a"], "c": ["a"]},
            RunStatus.Succeeded,
            id="one leaf skipped",
        ),
        pytest.param({"a": SUCCEEDED}, {}, RunStatus.Succeeded, id="single success"),
    ],
)
def test_terminal_rule(statuses: dict[str, StepStatus], run_after: dict[str, list[str]], expected: RunStatus) -> None:
    assert terminal_status(statuses, run_after) == expected
