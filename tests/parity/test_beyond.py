"""What none of the five stores passes, as far as it is not proven elsewhere: see the last table of docs/parity.md."""

from __future__ import annotations

import asyncio

import grpc
from tests.api.stores import at, json, span
from tests.parity.cases import Engine
from tests.parity.test_assay import created
from tests.parity.test_assay_activities import claimed, found, scheduled
from tests.service import refusal

from stepwell import reasons
from stepwell.stores.assay import WorkflowEvent, WorkflowStore, WorkflowTimer
from stepwell.v1 import types_pb2


async def test_b_start_to_close_is_enforced(engine: Engine) -> None:
    """Though the worker sends heartbeats."""
    store = engine.store(WorkflowStore)
    number = await scheduled(store, await created(engine, store), start_to_close_secs=300.0, heartbeat_timeout_secs=1e6)
    started = (await claimed(store)).started_at
    assert started is not None
    await store.heartbeat_activity(number)
    assert await store.get_timed_out_activities(started + 299) == []
    (late,) = await store.get_timed_out_activities(started + 301)
    assert late.id == number


async def test_c_concurrent_appends_have_numbers_without_gaps(engine: Engine) -> None:
    """200 at once over eight connections and two replicas."""
    stores = engine.stores(WorkflowStore, 8)
    workflow_id = await created(engine, stores[0])
    events = [WorkflowEvent(workflow_id=workflow_id, seq=seq, event_type="T") for seq in range(1, 201)]
    await asyncio.gather(*(stores[place % 8].append_event(event) for place, event in enumerate(events)))
    recorded = await engine.pages("ReadEvents", "events", workflow_id=workflow_id)
    assert [event.number for event in recorded] == list(range(1, 202))
    assert sorted(event.caller_seq for event in recorded) == list(range(201))


async def test_d_a_reaped_workers_reports_are_rejected(engine: Engine) -> None:
    """By the claim's token: a late worker's are told from the present one's."""
    await engine.create()
    asked = {"workflow_id": "w", "seq": 1, "type": "send", "task_queue": "q", "schedule_time": at(0)}
    number = (await engine.call("CreateActivity", **asked)).activity.activity_number
    first = await engine.call("ClaimActivity", task_queue="q", worker_id="a", now=at(1))
    await engine.call("RequeueActivityForRetry", activity_number=number, attempt=2, schedule_time=at(2))
    second = await engine.call("ClaimActivity", task_queue="q", worker_id="b", now=at(3))
    assert second.token > first.token
    assert not (await engine.call("HeartbeatActivity", activity_number=number, token=first.token)).recorded
    late = engine.call("CompleteActivity", activity_number=number, token=first.token, result=json("1"))
    assert await refusal(late) == ("FAILED_PRECONDITION", "LEASE_LOST")
    done = await engine.call("CompleteActivity", activity_number=number, token=second.token, result=json("2"))
    assert done.activity.result.json == "2"


async def test_e_a_heartbeat_tells_of_cancellation_and_keeps_details(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store)
    number = await scheduled(store, workflow_id)
    await claimed(store)
    beat = await engine.call("HeartbeatActivity", activity_number=number, details=json("0.5"))
    assert (beat.recorded, beat.cancel_requested) == (True, False)
    await store.cancel_pending_activities(workflow_id)
    beat = await engine.call("HeartbeatActivity", activity_number=number)
    assert (beat.recorded, beat.cancel_requested) == (True, True)
    activity = (await engine.call("GetActivity", activity_number=number)).activity
    assert activity.heartbeat_details.json == "0.5"


async def test_g_namespaces_with_equal_queue_names_are_apart(engine: Engine) -> None:
    store, other = engine.store(WorkflowStore), f"{engine.namespace}-other"
    await store.create_namespace(other)
    elsewhere = engine.store(WorkflowStore, namespace=other)
    workflow_id = await created(engine, store, task_queue="q")
    await store.mark_workflow_dispatchable(workflow_id)
    number = await scheduled(store, workflow_id)
    assert await elsewhere.claim_workflow_task("q", "w") is None
    assert await elsewhere.claim_activity("q", "w") is None
    assert await store.claim_workflow_task("q", "w") is not None
    assert (await claimed(store)).id == number
    assert (await found(elsewhere, number)).workflow_id == workflow_id


async def test_m_a_timer_fires_together_with_its_event(engine: Engine) -> None:
    """Whoever asks, and however many at once: each that is fired stands in history once, at the moment of its state."""
    stores = engine.stores(WorkflowStore, 4)
    workflow_id = await created(engine, stores[0])
    for seq in range(1, 9):
        await stores[0].create_timer(WorkflowTimer(workflow_id=workflow_id, seq=seq, fire_at=1000.0))
    fired = await asyncio.gather(*(store.fire_due_timers(2000.0) for store in stores))
    assert sorted(timer.seq for some in fired for timer in some) == list(range(1, 9))
    events = await engine.pages("ReadEvents", "events", workflow_id=workflow_id)
    told = [event for event in events if event.type == "TimerFired"]
    assert sorted(event.attributes["seq"] for event in told) == [str(seq) for seq in range(1, 9)]
    timer = (await engine.call("GetTimer", workflow_id=workflow_id, seq=1)).timer
    assert timer.state == types_pb2.STEP_STATE_COMPLETED


async def test_l_what_has_ended_stays_as_it_is(engine: Engine) -> None:
    """Of two who end a run at once, one does; the other is told what it came to."""
    stores = engine.stores(WorkflowStore, 2)
    await engine.create()
    ends = [
        engine.call("MarkRunCompleted", workflow_id="w", result=json("1")),
        engine.call("MarkRunFailed", workflow_id="w", failure={"message": "boom"}, terminal=True),
    ]
    came = await asyncio.gather(*ends, return_exceptions=True)
    (refused,) = (each for each in came if isinstance(each, grpc.RpcError))
    assert isinstance(reasons.from_rpc(refused), reasons.RunTerminal)
    assert len(await stores[1].list_workflows(engine.namespace)) == 1
    assert (await engine.call("ClaimRun", workflow_id="w", owner_id="a", lease_duration=span(5))).claimed is False
