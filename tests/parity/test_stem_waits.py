"""stem's `PostgresWorkflowStore`: its contract suite (I1) by name, second part: what runs wait for."""

from __future__ import annotations

import asyncio
import datetime as dt

from tests.parity.cases import Engine, answers
from tests.parity.test_stem import TRAIT, after, state

from stepwell.stores.stem import PostgresWorkflowStore


async def started(store: PostgresWorkflowStore, count: int = 1) -> list[str]:
    return [await store.createRun(workflow="flow", params={}) for _ in range(count)]


@answers(TRAIT, "suspendUntil", "dueRuns", "markResumed")
async def test_suspend_until_due_runs_mark_resumed(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    (run_id,) = await started(store)
    await store.suspendUntil(run_id, "s", after(-1), data={"a": 1})
    run = await state(store, run_id)
    assert (run.status, run.resumeAt) == ("suspended", after(-1))
    assert run.suspensionData == {"a": 1, "resumeAt": after(-1).isoformat()}
    assert await store.dueRuns(after(0)) == [run_id]
    assert await store.dueRuns(after(0)) == []
    await store.markResumed(run_id, data=run.suspensionData)
    run = await state(store, run_id)
    assert (run.status, run.waitTopic, run.suspensionData["a"]) == ("running", None, 1)


@answers(TRAIT, "dueRuns")
async def test_due_runs_honors_limit(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    ids = await started(store, 3)
    for run_id in ids:
        await store.suspendUntil(run_id, "s", after(0))
    first, second = await store.dueRuns(after(1), limit=2), await store.dueRuns(after(1), limit=2)
    assert (len(first), len(second), sorted(first + second)) == (2, 1, sorted(ids))


@answers(TRAIT, "dueRuns")
async def test_due_runs_are_disjoint_over_eight_pollers(engine: Engine) -> None:
    """Over two replicas: each run goes to one of them."""
    stores = engine.stores(PostgresWorkflowStore, 8)
    ids = await started(stores[0], 24)
    for run_id in ids:
        await stores[0].suspendUntil(run_id, "s", after(0))
    taken = await asyncio.gather(*(store.dueRuns(after(1), limit=6) for store in stores))
    assert sorted(run_id for each in taken for run_id in each) == sorted(ids)


@answers(TRAIT, "suspendOnTopic", "runsWaitingOn", "cancel")
async def test_suspend_on_topic_runs_waiting_on_cancel(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    (run_id,) = await started(store)
    await store.suspendOnTopic(run_id, "s", "paid")
    assert (await state(store, run_id)).waitTopic == "paid"
    assert await store.runsWaitingOn("paid") == [run_id]
    await store.cancel(run_id)
    run = await state(store, run_id)
    assert (run.status, run.waitTopic, await store.runsWaitingOn("paid")) == ("cancelled", None, [])


@answers(TRAIT, "runsWaitingOn", "markResumed")
async def test_runs_waiting_on_returns_all_on_a_topic(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    ids = await started(store, 3)
    for run_id in ids:
        await store.suspendOnTopic(run_id, "s", "paid")
    assert await store.runsWaitingOn("paid") == ids
    assert await store.runsWaitingOn("paid", limit=2) == ids[:2]
    for run_id in ids:
        await store.markResumed(run_id, data={"payload": run_id})
    assert await store.runsWaitingOn("paid") == []
    runs = [await state(store, run_id) for run_id in ids]
    assert [(run.status, run.waitTopic, run.suspensionData) for run in runs] == [
        ("running", None, {"payload": run_id}) for run_id in ids
    ]


@answers(TRAIT, "registerWatcher", "resolveWatchers", "listWatchers", "get")
async def test_register_watcher_resolves_payload_exactly_once(engine: Engine) -> None:
    store, other = engine.stores(PostgresWorkflowStore, 2)
    (run_id,) = await started(store)
    await store.registerWatcher(run_id, "s", "paid")
    assert await store.runsWaitingOn("paid") == [run_id]
    (watcher,) = await other.listWatchers("paid")
    assert (watcher.runId, watcher.stepName, watcher.topic) == (run_id, "s", "paid")
    (resolved,) = await other.resolveWatchers("paid", {"value": 42})
    assert (resolved.runId, resolved.stepName, resolved.topic) == (run_id, "s", "paid")
    assert (resolved.resumeData["payload"], resolved.resumeData["topic"]) == ({"value": 42}, "paid")
    assert (await store.listWatchers("paid"), await store.runsWaitingOn("paid")) == ([], [])
    run = await state(store, run_id)
    assert (run.status, run.suspensionData) == ("running", resolved.resumeData)
    assert await store.resolveWatchers("paid", {"value": 43}) == []


@answers(TRAIT, "resolveWatchers")
async def test_concurrent_emitters_resolve_each_watcher_once(engine: Engine) -> None:
    """Which stem's Postgres does not do; over two replicas."""
    stores = engine.stores(PostgresWorkflowStore, 4)
    ids = await started(stores[0], 16)
    for run_id in ids:
        await stores[0].registerWatcher(run_id, "s", "paid")
    resolved = await asyncio.gather(*(store.resolveWatchers("paid", {"emitter": n}) for n, store in enumerate(stores)))
    woken = {each.runId: each.resumeData["payload"] for some in resolved for each in some}
    assert sum(map(len, resolved)) == len(woken) == len(ids)
    assert {run_id: (await state(stores[0], run_id)).suspensionData["payload"] for run_id in ids} == woken


@answers(TRAIT, "listWatchers", "registerWatcher")
async def test_list_watchers_exposes_deadline_and_data(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    (run_id,) = await started(store)
    await store.registerWatcher(run_id, "s", "paid", deadline=after(60), data={"note": "n"})
    (watcher,) = await store.listWatchers("paid")
    assert (watcher.deadline, watcher.data["note"]) == (after(60), "n")
    assert watcher.createdAt > after(0)


@answers(TRAIT, "dueRuns", "suspendOnTopic")
async def test_a_deadline_that_passed_is_told_from_an_event(engine: Engine) -> None:
    """Which stem cannot tell."""
    store = engine.store(PostgresWorkflowStore)
    (run_id,) = await started(store)
    await store.suspendOnTopic(run_id, "s", "paid", deadline=after(5), data={"a": 1})
    assert await store.dueRuns(after(6)) == [run_id]
    data = (await state(store, run_id)).suspensionData
    assert (data["a"], data["timedOut"], "payload" in data) == (1, True, False)


@answers(TRAIT, "markRunning")
async def test_mark_running_keeps_the_suspension_data(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    (run_id,) = await started(store)
    await store.suspendUntil(run_id, "s", after(9), data={"a": 1})
    await store.markRunning(run_id, stepName="s")
    run = await state(store, run_id)
    assert (run.status, run.resumeAt, run.suspensionData["a"]) == ("running", None, 1)
    assert await store.dueRuns(after(10)) == []


async def test_a_time_has_a_zone(engine: Engine) -> None:
    store = engine.store(PostgresWorkflowStore)
    (run_id,) = await started(store)
    await store.suspendUntil(run_id, "s", dt.datetime(2024, 1, 1, 3, tzinfo=dt.timezone(dt.timedelta(hours=3))))
    assert (await state(store, run_id)).resumeAt == after(0)
