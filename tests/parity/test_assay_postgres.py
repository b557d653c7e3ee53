"""assay's `WorkflowStore`: the cases of its Postgres store (D2) by name."""

from __future__ import annotations

import asyncio

from tests.parity.cases import Engine
from tests.parity.test_assay import created, read, record
from tests.parity.test_assay_activities import scheduled
from tests.parity.test_assay_work import schedule, worker

from stepwell.stores.assay import WorkflowEvent, WorkflowSignal, WorkflowStatus, WorkflowStore, WorkflowTimer


async def test_pg_workflow_create_and_get(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store, input="{}")
    found = await read(store, workflow_id)
    assert (found.namespace, found.workflow_type, found.status, found.input) == (engine.namespace, "t", "PENDING", "{}")


async def test_pg_workflow_list_by_namespace(engine: Engine) -> None:
    store, staging = engine.store(WorkflowStore), f"{engine.namespace}-staging"
    await store.create_namespace(staging)
    here = await created(engine, store, "here")
    there = await created(engine, store, "there", namespace=staging)
    assert [each.id for each in await store.list_workflows(engine.namespace)] == [here]
    assert [each.id for each in await store.list_workflows(staging)] == [there]


async def test_pg_workflow_claim_and_status(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store)
    assert [await store.claim_workflow(workflow_id, worker_id) for worker_id in "ab"] == [True, False]
    claimed = await read(store, workflow_id)
    assert (claimed.status, claimed.claimed_by) == ("RUNNING", "a")
    await store.update_workflow_status(workflow_id, WorkflowStatus.COMPLETED, "{}")
    assert (await read(store, workflow_id)).completed_at is not None


async def test_pg_activity_claim_concurrent(engine: Engine) -> None:
    stores = engine.stores(WorkflowStore, 8)
    number = await scheduled(stores[0], await created(engine, stores[0]))
    claims = await asyncio.gather(*(store.claim_activity("q", f"w{n}") for n, store in enumerate(stores)))
    assert [each.id for each in claims if each is not None] == [number]


async def test_pg_events_and_signals(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store)
    await store.append_event(WorkflowEvent(workflow_id=workflow_id, seq=1, event_type="WorkflowStarted"))
    assert [event.event_type for event in await store.list_events(workflow_id)] == ["WorkflowStarted"]
    assert await store.get_event_count(workflow_id) == 1
    await store.send_signal(WorkflowSignal(workflow_id=workflow_id, name="go"))
    assert [len(await store.consume_signals(workflow_id, "go")) for _ in range(2)] == [1, 0]


async def test_pg_timers(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store)
    for seq, at in ((1, 1000.0), (2, 4e9)):
        await store.create_timer(WorkflowTimer(workflow_id=workflow_id, seq=seq, fire_at=at))
    assert [timer.seq for timer in await store.fire_due_timers(2000.0)] == [1]
    assert await store.fire_due_timers(2000.0) == []


async def test_pg_schedules(engine: Engine) -> None:
    store, space = engine.store(WorkflowStore), engine.namespace
    await store.create_schedule(schedule(engine))
    assert (await store.get_schedule(space, "s")) == (await store.list_schedules(space))[0]
    assert await store.delete_schedule(space, "s")
    assert await store.list_schedules(space) == []


async def test_pg_namespace_stats(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    await store.create_workflow(record(engine, status=WorkflowStatus.RUNNING))
    stats = await store.get_namespace_stats(engine.namespace)
    assert (stats.total_workflows, stats.running, stats.pending) == (1, 1, 0)


async def test_pg_leader_lock(engine: Engine) -> None:
    assert await engine.store(WorkflowStore).try_acquire_scheduler_lock()


async def test_pg_workers(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    one = worker(engine, "a", last_heartbeat=1000.0)
    await store.register_worker(one)
    await store.heartbeat_worker(one.id, 1030.0)
    assert await store.remove_dead_workers(1029.0) == []
    assert await store.remove_dead_workers(1031.0) == [one.id]
