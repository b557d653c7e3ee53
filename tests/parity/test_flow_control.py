"""FlowOrchestrator: dispatch contract, run-control state machine and idempotency keys, by the names of its tests."""

from __future__ import annotations

import asyncio
import datetime as dt
from uuid import uuid4

from tests.parity.cases import Engine, answers

from stepwell.stores.flow_orchestrator import FlowRunStore, RunStatus
from stepwell.v1 import mirrors_pb2

TRAIT = mirrors_pb2.TRAIT_FLOW_RUN_STORE
FLOW = str(uuid4())


async def started(store: FlowRunStore) -> str:
    run_id = str(uuid4())
    await store.StartRunAsync(FLOW, "Pay", run_id, "manual")
    await store.ConfigureRunAsync(run_id, FLOW, "manual")
    return run_id


# --- runs -------------------------------------------------------------------------------------------------------------


@answers(TRAIT, "StartRunAsync")
async def test_StartRun_creates_run_with_Running_status(engine: Engine) -> None:
    store, run_id, source = engine.store(FlowRunStore), str(uuid4()), str(uuid4())
    run = await store.StartRunAsync(FLOW, "Pay", run_id, "manual", '{"a": 1}', "job-1", source)
    assert (run.Id, run.FlowId, run.FlowName, run.TriggerKey) == (run_id, FLOW, "Pay", "manual")
    assert (run.TriggerDataJson, run.BackgroundJobId, run.SourceRunId) == ('{"a": 1}', "job-1", source)
    assert (run.Status, run.StartedAt.tzinfo, run.CompletedAt) == (RunStatus.Running, dt.UTC, None)


@answers(TRAIT, "CompleteRunAsync", "GetRunStatusAsync")
async def test_a_run_is_completed(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    for status in ("succeeded", "Failed", "Skipped", "Cancelled", "TimedOut"):
        run_id = await started(store)
        assert await store.GetRunStatusAsync(run_id) == "Running"
        await store.CompleteRunAsync(run_id, status)
        ended = await store.GetRunStatusAsync(run_id)
        assert ended is not None
        assert ended.lower() == status.lower()
    assert await store.GetRunStatusAsync(str(uuid4())) is None


@answers(TRAIT, "GetDerivedRunsAsync")
async def test_derived_runs_newest_first(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    source, derived = await started(store), [str(uuid4()) for _ in range(3)]
    for run_id in derived:
        await store.StartRunAsync(FLOW, "Pay", run_id, "manual", "[1]", sourceRunId=source)
    listed = await store.GetDerivedRunsAsync(source)
    assert [run.Id for run in listed] == derived[::-1]
    assert {(run.SourceRunId, run.TriggerDataJson, run.FlowName) for run in listed} == {(source, "[1]", "Pay")}
    assert await store.GetDerivedRunsAsync(derived[0]) == []


# --- dispatch contract ------------------------------------------------------------------------------------------------


@answers(TRAIT, "TryRecordDispatchAsync")
async def test_first_TryRecord_true_second_false(engine: Engine) -> None:
    store, run_id = engine.store(FlowRunStore), str(uuid4())
    assert await store.TryRecordDispatchAsync(run_id, "s")
    assert not await store.TryRecordDispatchAsync(run_id, "s")


@answers(TRAIT, "ReleaseDispatchAsync")
async def test_release_then_re_record_true(engine: Engine) -> None:
    store, run_id = engine.store(FlowRunStore), str(uuid4())
    await store.TryRecordDispatchAsync(run_id, "s")
    await store.ReleaseDispatchAsync(run_id, "s")
    assert await store.TryRecordDispatchAsync(run_id, "s")
    await store.ReleaseDispatchAsync(run_id, "another")


@answers(TRAIT, "GetDispatchedStepKeysAsync")
async def test_dispatched_set_reflects_three_recorded_less_one_released(engine: Engine) -> None:
    store, run_id = engine.store(FlowRunStore), str(uuid4())
    for key in ("a", "b", "c"):
        await store.TryRecordDispatchAsync(run_id, key)
    await store.ReleaseDispatchAsync(run_id, "b")
    assert await store.GetDispatchedStepKeysAsync(run_id) == {"a", "c"}
    assert await store.GetDispatchedStepKeysAsync(str(uuid4())) == set()


@answers(TRAIT, "AnnotateDispatchAsync")
async def test_a_dispatch_is_annotated(engine: Engine) -> None:
    store, run_id = engine.store(FlowRunStore), str(uuid4())
    await store.TryRecordDispatchAsync(run_id, "s")
    for key in ("s", "another"):
        await store.AnnotateDispatchAsync(run_id, key, "job-1")
    (row,) = await engine.pages("ListDispatchedSteps", "dispatches", run_id=run_id)
    assert (row.step_name, row.job_id) == ("s", "job-1")


@answers(TRAIT, "TryRecordDispatchAsync")
async def test_64_parallel_TryRecordDispatch_exactly_one(engine: Engine) -> None:
    stores, run_id = engine.stores(FlowRunStore, 8), str(uuid4())
    won = await asyncio.gather(*(stores[n % 8].TryRecordDispatchAsync(run_id, "s") for n in range(64)))
    assert sum(won) == 1


@answers(TRAIT, "TryRecordDispatchAsync")
async def test_8_loop_keys_by_4_replicas_one_winner_a_key(engine: Engine) -> None:
    stores, run_id = engine.stores(FlowRunStore, 4), str(uuid4())
    keys = [f"loop.{number}.child" for number in range(8)]
    won = await asyncio.gather(*(store.TryRecordDispatchAsync(run_id, key) for store in stores for key in keys))
    assert [sum(won[place::8]) for place in range(8)] == [1] * 8


@answers(TRAIT, "TryRecordDispatchAsync", "ReleaseDispatchAsync")
async def test_16_replicas_release_and_record_again(engine: Engine) -> None:
    """At least one wins, and the step is dispatched."""
    stores, run_id = engine.stores(FlowRunStore, 4), str(uuid4())
    await stores[0].TryRecordDispatchAsync(run_id, "s")

    async def again(store: FlowRunStore) -> bool:
        await store.ReleaseDispatchAsync(run_id, "s")
        return await store.TryRecordDispatchAsync(run_id, "s")

    assert sum(await asyncio.gather(*(again(stores[n % 4]) for n in range(16)))) >= 1
    assert await stores[0].GetDispatchedStepKeysAsync(run_id) == {"s"}


# --- run-control state machine ----------------------------------------------------------------------------------------


@answers(TRAIT, "ConfigureRunAsync", "GetRunControlAsync")
async def test_a_run_is_configured(engine: Engine) -> None:
    store, until = engine.store(FlowRunStore), dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
    run_id = await started(store)
    await store.ConfigureRunAsync(run_id, FLOW, "webhook", "Key-1", until)
    control = await store.GetRunControlAsync(run_id)
    assert control is not None
    assert (control.RunId, control.FlowId, control.TriggerKey) == (run_id, FLOW, "webhook")
    assert (control.IdempotencyKey, control.TimeoutAtUtc, control.CancelRequested) == ("Key-1", until, False)
    assert await store.GetRunControlAsync(str(uuid4())) is None


@answers(TRAIT, "RequestCancelAsync", "GetRunControlAsync")
async def test_cancel_twice(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    run_id = await started(store)
    assert [await store.RequestCancelAsync(run_id, reason) for reason in ("first", "second")] == [True, False]
    control = await store.GetRunControlAsync(run_id)
    assert control is not None
    assert (control.CancelRequested, control.CancelReason) == (True, "first")
    assert control.CancelRequestedAtUtc is not None
    assert not await store.RequestCancelAsync(str(uuid4()), "unknown")


@answers(TRAIT, "MarkTimedOutAsync", "GetRunControlAsync")
async def test_timeout_twice(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    run_id = await started(store)
    assert await store.MarkTimedOutAsync(run_id, "late")
    first = await store.GetRunControlAsync(run_id)
    assert not await store.MarkTimedOutAsync(run_id, "later")
    assert first is not None
    assert first.TimedOutAtUtc is not None
    assert await store.GetRunControlAsync(run_id) == first
    assert not await store.MarkTimedOutAsync(str(uuid4()))


@answers(TRAIT, "RequestCancelAsync", "MarkTimedOutAsync")
async def test_cancel_then_timeout(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    run_id = await started(store)
    assert await store.RequestCancelAsync(run_id, "mine")
    assert await store.MarkTimedOutAsync(run_id, "late")
    control = await store.GetRunControlAsync(run_id)
    assert control is not None
    assert (control.CancelRequested, control.TimedOutAtUtc is None) == (True, False)


@answers(TRAIT, "MarkTimedOutAsync")
async def test_timeout_then_cancel(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    run_id = await started(store)
    assert await store.MarkTimedOutAsync(run_id, "late")
    assert not await store.RequestCancelAsync(run_id, "mine")
    control = await store.GetRunControlAsync(run_id)
    assert control is not None
    assert control.TimedOutAtUtc is not None


# --- idempotency keys -------------------------------------------------------------------------------------------------


@answers(TRAIT, "TryRegisterIdempotencyKeyAsync", "FindRunIdByIdempotencyKeyAsync")
async def test_32_parallel_TryRegisterIdempotencyKey_exactly_one(engine: Engine) -> None:
    stores, run_ids = engine.stores(FlowRunStore, 8), [str(uuid4()) for _ in range(32)]
    calls = [
        stores[place % 8].TryRegisterIdempotencyKeyAsync(FLOW, "manual", "k", run_id)
        for place, run_id in enumerate(run_ids)
    ]
    won = await asyncio.gather(*calls)
    assert sum(won) == 1
    assert await stores[0].FindRunIdByIdempotencyKeyAsync(FLOW, " Manual", "K ") == run_ids[won.index(True)]
    assert await stores[0].FindRunIdByIdempotencyKeyAsync(FLOW, "manual", "another") is None


@answers(TRAIT, "TryRegisterIdempotencyKeyAsync", "FindRunIdByIdempotencyKeyAsync")
async def test_one_key_under_manual_and_webhook_is_two(engine: Engine) -> None:
    store, run_ids = engine.store(FlowRunStore), {trigger: str(uuid4()) for trigger in ("manual", "webhook")}
    for trigger, run_id in run_ids.items():
        assert await store.TryRegisterIdempotencyKeyAsync(FLOW, trigger, "k", run_id)
    for trigger, run_id in run_ids.items():
        assert await store.FindRunIdByIdempotencyKeyAsync(FLOW, trigger, "k") == run_id
