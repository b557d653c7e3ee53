"""WorkerStore: assay's contract cases by name, and what becomes of the tasks that a dead worker had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from tests.api.stores import Store, at, create
from tests.service import Service, refusal, serving
from tests.stream.kit import BLOCKED, until

from stepwell.v1 import namespaces_pb2, types_pb2
from stepwell_server.store import worker_store

STEP_PENDING, STEP_RUNNING, STEP_FAILED = (
    types_pb2.STEP_STATE_PENDING,
    types_pb2.STEP_STATE_RUNNING,
    types_pb2.STEP_STATE_FAILED,
)


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


@pytest.fixture
def store(service: Service) -> Store:
    return Store(service, "worker")


async def register(store: Store, worker_id: str, seconds: float = 0, **fields: Any) -> Any:
    return await store.call("RegisterWorker", worker_id=worker_id, now=at(seconds), **fields)


async def listed(store: Store, **fields: Any) -> list[str]:
    workers = await store.pages("ListRegisteredWorkers", "workers", **fields)
    return [worker.worker_id for worker in workers]


async def removed(store: Store, seconds: float, **fields: Any) -> list[str]:
    return list((await store.call("RemoveDeadWorkers", cutoff=at(seconds), **fields)).worker_ids)


async def create_namespace(service: Service, name: str) -> None:
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace=name))


# --- assay's contract -------------------------------------------------------------------------------------------------


async def test_assay_25_worker_register_heartbeat_list(store: Store) -> None:
    """Registered anew, a worker says anew what it is, and keeps its place in the list."""
    said = {
        "identity": "host 1",
        "task_queue": "q",
        "workflow_types": ["a", "b"],
        "activity_types": ["c"],
        "max_concurrent_workflows": 10,
        "max_concurrent_activities": 20,
        "active_tasks": 3,
    }
    first = await register(store, "w1", 0, **said)
    assert first.created
    assert {name: getattr(first.worker, name) for name in said} == said
    assert (first.worker.register_time, first.worker.heartbeat_time) == (at(0), at(0))
    await register(store, "w2", 1)
    assert (await store.call("HeartbeatWorker", worker_id="w1", now=at(100))).known
    one, two = await store.pages("ListRegisteredWorkers", "workers")
    assert (one.worker_id, one.heartbeat_time, two.worker_id, two.task_queue) == ("w1", at(100), "w2", "default")
    again = await register(store, "w1", 200, task_queue="other")
    assert (again.created, again.worker.register_time, again.worker.heartbeat_time) == (False, at(0), at(200))
    assert (again.worker.task_queue, again.worker.identity) == ("other", "")
    assert await listed(store) == ["w1", "w2"]


async def test_assay_26_worker_remove_dead(store: Store) -> None:
    for worker_id in ("alive", "dead"):
        await register(store, worker_id, 1000)
    await store.call("HeartbeatWorker", worker_id="alive", now=at(1200))
    assert await removed(store, 1000) == []
    assert await removed(store, 1100) == ["dead"]
    assert await listed(store) == ["alive"]
    assert await removed(store, 1100) == []
    # It is told, and may come again.
    assert not (await store.call("HeartbeatWorker", worker_id="dead", now=at(1200))).known
    assert (await register(store, "dead", 1200)).created


# --- beyond it --------------------------------------------------------------------------------------------------------


async def claimed(service: Service, worker_id: str, runs: int, activities: int) -> tuple[list[str], list[int]]:
    """Runs whose tasks a worker has, and activities."""
    run_store, activity_store = Store(service, "run"), Store(service, "activity")
    run_ids, numbers = [], []
    for _ in range(runs):
        run_id = await create(service, task_queue="q")
        await run_store.call("MarkRunDispatchable", run_id=run_id)
        claim = await run_store.call("ClaimRunTask", task_queue="q", worker_id=worker_id)
        assert claim.run.run_id == run_id
        run_ids.append(run_id)
    run_id = await create(service)
    for seq in range(activities):
        await activity_store.call(
            "CreateActivity", run_id=run_id, seq=seq, type="t", task_queue="q", retry={"maximum_attempts": 2}
        )
        claim = await activity_store.call("ClaimActivity", task_queue="q", worker_id=worker_id)
        numbers.append(claim.activity.activity_number)
    return run_ids, numbers


async def test_what_a_dead_worker_had_goes_back(service: Service, store: Store) -> None:
    """Runs are dispatchable, activities wait for their next attempt; another worker's stay as they are."""
    for worker_id in ("dead", "alive"):
        await register(store, worker_id, 0 if worker_id == "dead" else 100)
    lost = await claimed(service, "dead", 3, 2)
    kept = await claimed(service, "alive", 1, 1)
    step = await Store(service, "step").call("BeginStep", run_id=lost[0][0], step_name="s", owner_id="dead")
    answer = await store.call("RemoveDeadWorkers", cutoff=at(50))
    assert (list(answer.worker_ids), answer.released_runs, answer.released_activities) == (["dead"], 3, 2)
    run_store, activity_store = Store(service, "run"), Store(service, "activity")
    for run_id in lost[0]:
        assert (await run_store.call("ClaimRunTask", task_queue="q", worker_id="w")).run.run_id == run_id
    assert not (await run_store.call("ClaimRunTask", task_queue="q", worker_id="w")).claimed
    assert (await run_store.call("ReleaseRunTask", run_id=kept[0][0], worker_id="alive")).released
    for number in lost[1]:
        late = activity_store.call("CompleteActivity", activity_number=number, token=1)
        assert (await refusal(late))[1] == "STEP_STATE_CONFLICT"
        again = await activity_store.call("ClaimActivity", task_queue="q", worker_id="w")
        assert (again.activity.activity_number, again.activity.attempt) == (number, 2)
    held = await activity_store.call("GetActivity", activity_number=kept[1][0])
    assert (held.activity.state, held.activity.owner_id) == (STEP_RUNNING, "alive")
    # A checkpoint is its engine's own.
    read = await Store(service, "step").call("GetStep", run_id=lost[0][0], step_name="s")
    assert read.step.state == STEP_RUNNING == step.step.state


async def test_the_last_attempt_of_a_dead_worker_fails(service: Service, store: Store) -> None:
    activity_store = Store(service, "activity")
    _, (number,) = await claimed(service, "first", 0, 1)
    for worker_id, state in (("first", STEP_PENDING), ("second", STEP_FAILED)):
        if worker_id == "second":
            await activity_store.call("ClaimActivity", task_queue="q", worker_id=worker_id)
        await register(store, worker_id)
        assert await removed(store, 1) == [worker_id]
        assert (await activity_store.call("GetActivity", activity_number=number)).activity.state == state


async def test_a_removal_that_was_cut_short_is_finished(
    service: Service, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost: the worker is remembered until all that it had is back, and is no worker any more."""
    await register(store, "dead")
    await claimed(service, "dead", 2, 1)
    remove = worker_store.remove

    async def cut(*arguments: Any) -> list[str]:
        raise RuntimeError("cut short")

    monkeypatch.setattr(worker_store, "remove", cut)
    assert (await refusal(store.call("RemoveDeadWorkers", cutoff=at(1))))[0] == "INTERNAL"
    assert await listed(store) == []
    assert not (await store.call("HeartbeatWorker", worker_id="dead", now=at(9))).known
    monkeypatch.setattr(worker_store, "remove", remove)
    # Whoever looks next finishes it, however early the cutoff.
    assert await removed(store, -1000) == ["dead"]


async def test_each_dead_worker_is_one_callers(service: Service, store: Store, database_url: str) -> None:
    """Over two replicas; and however many there are, they go in portions."""
    await asyncio.gather(*(register(store, f"w{number}") for number in range(300)))
    async with serving(database_url) as other:
        stores = (store, Store(other, "worker"))
        answers = await asyncio.gather(*(removed(stores[place % 2], 1) for place in range(6)))
    rest = await removed(store, 1)
    gone = [worker_id for answer in (*answers, rest) for worker_id in answer]
    assert sorted(gone) == sorted(f"w{number}" for number in range(300))
    assert max(map(len, answers)) <= 256


async def test_removals_do_not_meet_crosswise(service: Service, store: Store, database_url: str) -> None:
    """They lock workers by their names, whatever the order in which the table keeps them."""
    for worker_id in ("b", "a"):
        await register(store, worker_id)
    other = await asyncpg.connect(database_url)
    try:
        async with other.transaction():
            await other.execute("UPDATE stepwell.workers SET condemned = true")
        await other.execute("ANALYZE stepwell.workers")  # so few are read as they lie
        namespace_id = await other.fetchval("SELECT max(namespace_id) FROM stepwell.workers")
        lock = "SELECT FROM stepwell.workers WHERE worker_id = $1 FOR UPDATE"
        async with other.transaction():
            await other.execute(lock, "a")
            removing = asyncio.create_task(worker_store.remove(service.database, namespace_id, ["a", "b"]))
            await until(lambda: other.fetchval(BLOCKED))
            await other.execute(lock, "b")
        assert await removing == ["a", "b"]
    finally:
        await other.close()


async def test_namespaces_are_apart(service: Service, store: Store) -> None:
    await create_namespace(service, "ns")
    await register(store, "w", namespace="ns")
    assert await listed(store) == []
    assert not (await store.call("HeartbeatWorker", worker_id="w", now=at(5))).known
    assert (await store.call("HeartbeatWorker", worker_id="w", namespace="-", now=at(5))).known
    await register(store, "w")
    either = store.call("HeartbeatWorker", worker_id="w", namespace="-", now=at(9))
    assert await refusal(either) == ("FAILED_PRECONDITION", "WORKER_AMBIGUOUS")
    assert await removed(store, 1) == ["w"]
    assert await listed(store, namespace="ns") == ["w"]
    for name, count in (("main", 0), ("ns", 1)):
        request = namespaces_pb2.GetNamespaceStatsRequest(namespace=name)
        assert (await service.namespace_calls.GetNamespaceStats(request)).workers == count
    # A namespace may go with the workers that are registered in it.
    assert (
        await service.namespace_calls.DeleteNamespace(namespaces_pb2.DeleteNamespaceRequest(namespace="ns"))
    ).deleted
    await create_namespace(service, "ns")
    assert await listed(store, namespace="ns") == []


async def test_workers_are_filtered_and_sorted(store: Store) -> None:
    for place, worker_id in enumerate("cab"):
        await register(
            store, worker_id, place, active_tasks=place % 2, activity_types=["send"] if place else [], identity="h"
        )
    for size in (1, 50):
        assert await listed(store, page_size=size) == ["c", "a", "b"]
        assert await listed(store, page_size=size, order_by="active_tasks desc, worker_id") == ["a", "b", "c"]
    assert await listed(store, filter="activity_types:send AND active_tasks < 1") == ["b"]


async def test_what_is_wrong_is_refused(store: Store) -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("RegisterWorker", {}),
        ("RegisterWorker", {"worker_id": "a\0"}),
        ("RegisterWorker", {"worker_id": "w" * 256}),
        ("RegisterWorker", {"worker_id": "w", "namespace": "-"}),
        ("RegisterWorker", {"worker_id": "w", "active_tasks": -1}),
        ("RegisterWorker", {"worker_id": "w", "max_concurrent_workflows": 2**31 - 1}),
        ("RegisterWorker", {"worker_id": "w", "activity_types": ["t"] * 257}),
        ("RegisterWorker", {"worker_id": "w", "workflow_types": [""]}),
        ("HeartbeatWorker", {}),
        ("ListRegisteredWorkers", {"filter": "build_id = 1"}),
        ("RemoveDeadWorkers", {}),
        ("RemoveDeadWorkers", {"cutoff": at(0), "namespace": "-"}),
    ]
    for method, fields in wrong:
        assert await refusal(store.call(method, **fields)) == ("INVALID_ARGUMENT", "INVALID_FIELD"), (method, fields)
    assert (await refusal(register(store, "w", namespace="none")))[1] == "NAMESPACE_NOT_FOUND"
    assert await listed(store) == []
