"""assay's `WorkflowStore`: its store contract (D1) by name, second part: activities."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.parity.cases import Engine, answers
from tests.parity.test_assay import TRAIT, created, read

from stepwell import reasons
from stepwell.stores.assay import WorkflowActivity, WorkflowStatus, WorkflowStore

RUNNING = WorkflowStatus.RUNNING


async def scheduled(store: WorkflowStore, workflow_id: str, seq: int = 1, **fields: Any) -> int:
    given = {"name": "send", "task_queue": "q", "scheduled_at": 1.0, **fields}
    return await store.create_activity(WorkflowActivity(workflow_id=workflow_id, seq=seq, **given))


async def found(store: WorkflowStore, number: int) -> WorkflowActivity:
    activity = await store.get_activity(number)
    assert activity is not None
    return activity


async def claimed(store: WorkflowStore, worker_id: str = "w1") -> WorkflowActivity:
    activity = await store.claim_activity("q", worker_id)
    assert activity is not None
    return activity


async def check_health(store: WorkflowStore, now: float) -> None:
    """Assay's own pass over what has timed out, by the methods of its store."""
    for late in await store.get_timed_out_activities(now):
        assert late.id is not None
        if late.attempt < late.max_attempts:
            delay = late.initial_interval_secs * late.backoff_coefficient ** (late.attempt - 1)
            await store.requeue_activity_for_retry(late.id, late.attempt + 1, now + delay)
            continue
        reason = f"Activity {late.name!r} timed out after {late.attempt} attempts"
        await store.complete_activity(late.id, error="heartbeat timeout", failed=True)
        await store.update_workflow_status(late.workflow_id, WorkflowStatus.FAILED, error=reason)


@answers(TRAIT, "create_activity", "get_activity", "get_activity_by_workflow_seq", "claim_activity")
async def test_activity_create_and_claim(engine: Engine) -> None:
    """Of two claims, on two replicas, one gets it."""
    store, other = engine.stores(WorkflowStore, 2)
    workflow_id = await created(engine, store)
    number = await scheduled(store, workflow_id, input='{"to":  1}', heartbeat_timeout_secs=30.0)
    assert number > 0
    activity = await found(other, number)
    assert activity == await store.get_activity_by_workflow_seq(workflow_id, 1)
    assert (activity.status, activity.name, activity.task_queue, activity.workflow_id, activity.seq) == (
        "PENDING",
        "send",
        "q",
        workflow_id,
        1,
    )
    assert (activity.input, activity.attempt, activity.max_attempts, activity.scheduled_at) == ('{"to":  1}', 1, 3, 1.0)
    assert (activity.start_to_close_secs, activity.heartbeat_timeout_secs) == (300.0, 30.0)
    assert await store.get_activity(number + 1) is None
    assert await store.get_activity_by_workflow_seq(workflow_id, 2) is None
    claims = await asyncio.gather(store.claim_activity("q", "w1"), other.claim_activity("q", "w2"))
    (winner,) = (each for each in claims if each is not None)
    assert (winner.id, winner.status, winner.claimed_by in {"w1", "w2"}) == (number, "RUNNING", True)
    assert await scheduled(store, workflow_id) == number


@answers(TRAIT, "complete_activity", "requeue_activity_for_retry")
async def test_activity_retry_on_failure(engine: Engine) -> None:
    """And it is not to be had before its time, which assay's code lets happen."""
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store)
    number = await scheduled(store, workflow_id)
    await claimed(store)
    await store.complete_activity(number, error="boom", failed=True)
    failed = await found(store, number)
    assert (failed.status, failed.error, failed.completed_at is not None) == ("FAILED", "boom", True)
    await store.requeue_activity_for_retry(number, 2, 4e9)
    waiting = await found(store, number)
    assert (waiting.status, waiting.attempt, waiting.error, waiting.claimed_by) == ("PENDING", 2, None, None)
    assert waiting.scheduled_at == 4e9
    assert await store.claim_activity("q", "w2") is None
    await store.requeue_activity_for_retry(number, 2, 2.0)
    assert (await claimed(store, "w2")).attempt == 2


@answers(TRAIT, "complete_activity")
async def test_a_completed_activity_stays_as_it_is(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    number = await scheduled(store, await created(engine, store))
    await claimed(store)
    await store.complete_activity(number, '{"ok":  1}')
    with pytest.raises(reasons.StepStateConflict):
        await store.complete_activity(number, error="late", failed=True)
    with pytest.raises(reasons.StepStateConflict):
        await store.requeue_activity_for_retry(number, 2, 1.0)
    done = await found(store, number)
    assert (done.status, done.result, done.error) == ("COMPLETED", '{"ok":  1}', None)


@answers(TRAIT, "heartbeat_activity", "get_timed_out_activities")
async def test_activity_heartbeat_timeout(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    number = await scheduled(store, await created(engine, store), heartbeat_timeout_secs=30.0)
    await claimed(store)
    assert (await found(store, number)).last_heartbeat is None
    await store.heartbeat_activity(number, '{"done":  0.5}')
    beat = (await found(store, number)).last_heartbeat
    assert beat is not None
    assert [each.id for each in await store.get_timed_out_activities(beat + 60)] == [number]
    assert await store.get_timed_out_activities(beat + 1) == []


@answers(TRAIT, "cancel_pending_activities")
async def test_activity_cancel_pending(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store)
    numbers = [await scheduled(store, workflow_id, seq) for seq in (1, 2, 3)]
    running = (await claimed(store)).id
    assert await store.cancel_pending_activities(workflow_id) == 2
    states = {number: (await found(store, number)).status for number in numbers}
    assert states == {number: "RUNNING" if number == running else "CANCELLED" for number in numbers}


@answers(TRAIT, "get_timed_out_activities", "requeue_activity_for_retry")
async def test_reaper_requeues_timed_out_activity_with_attempts_left(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store, status=RUNNING)
    number = await scheduled(store, workflow_id, heartbeat_timeout_secs=30.0)
    started = (await claimed(store)).started_at
    assert started is not None
    await check_health(store, started + 60)
    activity = await found(store, number)
    assert (activity.status, activity.attempt, activity.claimed_by) == ("PENDING", 2, None)
    assert (await read(store, workflow_id)).status == "RUNNING"


@answers(TRAIT, "get_timed_out_activities")
async def test_reaper_catches_activity_that_never_heartbeated(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    number = await scheduled(store, await created(engine, store), heartbeat_timeout_secs=30.0)
    started = (await claimed(store)).started_at
    assert started is not None
    assert await store.get_timed_out_activities(started + 1) == []
    assert [each.id for each in await store.get_timed_out_activities(started + 60)] == [number]


@answers(TRAIT, "get_timed_out_activities", "complete_activity")
async def test_reaper_fails_workflow_when_attempts_exhausted(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store, status=RUNNING)
    number = await scheduled(store, workflow_id, heartbeat_timeout_secs=30.0, max_attempts=1)
    started = (await claimed(store)).started_at
    assert started is not None
    await check_health(store, started + 60)
    assert (await found(store, number)).status == "FAILED"
    workflow = await read(store, workflow_id)
    assert (workflow.status, workflow.error) == ("FAILED", "Activity 'send' timed out after 1 attempts")
