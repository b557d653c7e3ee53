"""assay's `WorkflowStore`: its store contract (D1) by name, third part: timers, signals, schedules and workers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from tests.parity.cases import Engine, answers
from tests.parity.test_assay import TRAIT, created
from tests.parity.test_assay_activities import claimed, found, scheduled

from stepwell import reasons
from stepwell.stores.assay import (
    SchedulePatch,
    WorkflowSchedule,
    WorkflowSignal,
    WorkflowStore,
    WorkflowTimer,
    WorkflowWorker,
)

NIGHTLY = "0 0 8 1 1 *"


def schedule(engine: Engine, name: str = "s", **fields: Any) -> WorkflowSchedule:
    given = {"namespace": engine.namespace, "workflow_type": "t", "cron_expr": NIGHTLY, **fields}
    return WorkflowSchedule(name=name, **given)


def worker(engine: Engine, name: str, **fields: Any) -> WorkflowWorker:
    return WorkflowWorker(**{"id": f"{engine.namespace}-{name}", "namespace": engine.namespace, **fields})


# --- timers and signals -----------------------------------------------------------------------------------------------


@answers(TRAIT, "create_timer", "fire_due_timers", "get_timer_by_workflow_seq")
async def test_timer_create_and_fire(engine: Engine) -> None:
    """Once over many callers on two replicas."""
    stores = engine.stores(WorkflowStore, 4)
    workflow_id = await created(engine, stores[0])
    number = await stores[0].create_timer(WorkflowTimer(workflow_id=workflow_id, seq=1, fire_at=1000.0))
    await stores[0].create_timer(WorkflowTimer(workflow_id=workflow_id, seq=2, fire_at=4e9))
    assert number > 0
    timer = await stores[0].get_timer_by_workflow_seq(workflow_id, 1)
    assert timer == WorkflowTimer(workflow_id=workflow_id, seq=1, fire_at=1000.0, fired=False, id=number)
    fired = await asyncio.gather(*(store.fire_due_timers(2000.0) for store in stores))
    assert [each for some in fired for each in some] == [replace(timer, fired=True)]
    assert await stores[0].get_timer_by_workflow_seq(workflow_id, 1) == replace(timer, fired=True)
    assert await stores[0].fire_due_timers(2000.0) == []
    assert await stores[0].get_timer_by_workflow_seq(workflow_id, 3) is None


@answers(TRAIT, "create_timer", "get_timer_by_workflow_seq")
async def test_timer_idempotent_on_seq(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store)
    timers = [WorkflowTimer(workflow_id=workflow_id, seq=1, fire_at=at) for at in (1000.0, 9000.0)]
    first, second = [await store.create_timer(timer) for timer in timers]
    assert (first, first > 0) == (second, True)
    timer = await store.get_timer_by_workflow_seq(workflow_id, 1)
    assert timer is not None
    assert timer.fire_at == 1000.0
    assert len(await store.fire_due_timers(10_000.0)) == 1


@answers(TRAIT, "cancel_pending_timers")
async def test_cancelled_timers_do_not_fire(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store)
    for seq in (1, 2):
        await store.create_timer(WorkflowTimer(workflow_id=workflow_id, seq=seq, fire_at=1000.0))
    assert await store.cancel_pending_timers(workflow_id) == 2
    assert await store.fire_due_timers(2000.0) == []
    timer = await store.get_timer_by_workflow_seq(workflow_id, 1)
    assert timer is not None
    assert timer.fired


@answers(TRAIT, "send_signal", "consume_signals")
async def test_signal_send_and_consume(engine: Engine) -> None:
    """Each once over two replicas, in the order of their arrival."""
    store, other = engine.stores(WorkflowStore, 2)
    workflow_id = await created(engine, store)
    names = ("go", "go", "other")
    ids = [
        await store.send_signal(WorkflowSignal(workflow_id=workflow_id, name=name, payload=f'{{"n":  {n}}}'))
        for n, name in enumerate(names)
    ]
    assert (len(set(ids)), all(each > 0 for each in ids)) == (3, True)
    taken = await asyncio.gather(store.consume_signals(workflow_id, "go"), other.consume_signals(workflow_id, "go"))
    assert [(each.id, each.payload, each.consumed) for some in taken for each in some] == [
        (ids[0], '{"n":  0}', True),
        (ids[1], '{"n":  1}', True),
    ]
    assert await store.consume_signals(workflow_id, "go") == []
    assert [each.id for each in await store.consume_signals(workflow_id, "other")] == [ids[2]]


# --- schedules --------------------------------------------------------------------------------------------------------


@answers(
    TRAIT,
    "create_schedule",
    "get_schedule",
    "list_schedules",
    "update_schedule",
    "set_schedule_paused",
    "delete_schedule",
)
async def test_schedule_crud(engine: Engine) -> None:
    store, space = engine.store(WorkflowStore), engine.namespace
    given = schedule(engine, input='{"a":  1}', task_queue="q", timezone="Europe/Berlin")
    await store.create_schedule(given)
    stored = await store.get_schedule(space, "s")
    assert stored is not None
    assert replace(stored, next_run_at=None, created_at=0.0) == given
    assert await store.list_schedules(space) == [stored]
    patched = await store.update_schedule(space, "s", SchedulePatch(cron_expr="0 0 9 1 1 *"))
    assert patched is not None
    assert (patched.cron_expr, patched.input, patched.timezone) == ("0 0 9 1 1 *", given.input, given.timezone)
    assert patched.next_run_at != stored.next_run_at
    assert await store.update_schedule(space, "s", SchedulePatch()) == patched
    paused = await store.set_schedule_paused(space, "s", True)
    assert paused is not None
    assert paused.paused
    assert await store.get_schedule(space, "s") == paused
    resumed = await store.set_schedule_paused(space, "s", False)
    assert resumed is not None
    assert (resumed.paused, resumed.next_run_at) == (False, patched.next_run_at)
    assert [await store.delete_schedule(space, "s") for _ in range(2)] == [True, False]
    assert await store.get_schedule(space, "s") is None
    assert await store.update_schedule(space, "s", SchedulePatch(timezone="UTC")) is None
    assert await store.set_schedule_paused(space, "s", True) is None


@answers(TRAIT, "update_schedule_last_run")
async def test_schedule_last_run_update(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    await store.create_schedule(schedule(engine))
    await store.update_schedule_last_run(engine.namespace, "s", 1000.0, 3.2e9, "s-1000")
    stored = await store.get_schedule(engine.namespace, "s")
    assert stored is not None
    assert (stored.last_run_at, stored.next_run_at, stored.last_workflow_id) == (1000.0, 3.2e9, "s-1000")


@answers(TRAIT, "create_schedule", "get_schedule")
async def test_schedule_does_not_fire_at_registration(engine: Engine) -> None:
    """Its first time is the next one that it names; five fields are understood like six."""
    store = engine.store(WorkflowStore)
    for name, cron in (("six", NIGHTLY), ("five", "0 8 1 1 *")):
        await store.create_schedule(schedule(engine, name, cron_expr=cron))
    stored = [await store.get_schedule(engine.namespace, name) for name in ("six", "five")]
    first, second = (each for each in stored if each is not None)
    assert (first.last_run_at, first.last_workflow_id) == (None, None)
    assert first.next_run_at is not None
    assert time.time() < first.next_run_at == second.next_run_at
    assert await store.list_workflows(engine.namespace) == []


async def test_a_schedule_that_cannot_fire_is_refused(engine: Engine) -> None:
    """Assay takes it, and it never fires."""
    store = engine.store(WorkflowStore)
    for fields in ({"cron_expr": "61 * * * *"}, {"timezone": "Mars/Olympus"}):
        with pytest.raises(reasons.InvalidField):
            await store.create_schedule(schedule(engine, **fields))


# --- workers and queues -----------------------------------------------------------------------------------------------


@answers(TRAIT, "register_worker", "heartbeat_worker", "list_workers")
async def test_worker_register_heartbeat_list(engine: Engine) -> None:
    store, space = engine.store(WorkflowStore), engine.namespace
    first = worker(engine, "a", identity="host", task_queue="q", activities='["send"]', last_heartbeat=1000.0)
    await store.register_worker(first)
    await store.register_worker(worker(engine, "b", last_heartbeat=1001.0))
    await store.heartbeat_worker(first.id, 1100.0)
    listed = await store.list_workers(space)
    assert [each.id for each in listed] == [first.id, f"{space}-b"]
    assert listed[0] == replace(first, last_heartbeat=1100.0, registered_at=1000.0)
    await store.register_worker(first)
    assert len(await store.list_workers(space)) == 2
    await store.heartbeat_worker("unknown", 1.0)


@answers(TRAIT, "remove_dead_workers")
async def test_worker_remove_dead(engine: Engine) -> None:
    """By one of many callers; what it had goes back."""
    stores = engine.stores(WorkflowStore, 4)
    store, space = stores[0], engine.namespace
    for name in ("alive", "dead"):
        await store.register_worker(worker(engine, name, last_heartbeat=1000.0))
    number = await scheduled(store, await created(engine, store))
    await claimed(store, f"{space}-dead")
    await store.heartbeat_worker(f"{space}-alive", 1200.0)
    removed = await asyncio.gather(*(each.remove_dead_workers(1100.0) for each in stores))
    assert [worker_id for some in removed for worker_id in some] == [f"{space}-dead"]
    assert [each.id for each in await store.list_workers(space)] == [f"{space}-alive"]
    assert (await found(store, number)).status == "PENDING"


@answers(TRAIT, "get_queue_stats")
async def test_queue_stats(engine: Engine) -> None:
    store = engine.store(WorkflowStore)
    workflow_id = await created(engine, store)
    for seq, queue in enumerate(("alpha", "alpha", "beta")):
        await scheduled(store, workflow_id, seq, task_queue=queue)
    for name, queue in (("a1", "alpha"), ("a2", "alpha"), ("b", "beta")):
        await store.register_worker(worker(engine, name, task_queue=queue))
    stats = await store.get_queue_stats(engine.namespace)
    assert [(each.queue, each.pending_activities, each.running_activities, each.workers) for each in stats] == [
        ("alpha", 2, 0, 2),
        ("beta", 1, 0, 1),
    ]
    assert await store.claim_activity("beta", "b") is not None
    beta = (await store.get_queue_stats(engine.namespace))[1]
    assert (beta.pending_activities, beta.running_activities) == (0, 1)


@answers(TRAIT, "try_acquire_scheduler_lock")
async def test_leader_election(engine: Engine) -> None:
    """The same process stays leader, whichever replica it asks; nobody else becomes it meanwhile."""
    store, other = engine.stores(WorkflowStore, 2)
    assert await store.try_acquire_scheduler_lock()
    assert await other.try_acquire_scheduler_lock()
    asked = {"leadership": "scheduler", "holder_id": "another", "ttl": {"seconds": 60}}
    assert not (await engine.call("AcquireLeadership", **asked)).acquired
