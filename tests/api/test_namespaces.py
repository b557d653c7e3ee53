"""Namespaces over the wire, and what replicas know of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC
from typing import Any

import pytest
import pytest_asyncio
from tests.engine.replica import look
from tests.service import Service, refusal, serving, soon

from stepwell.v1 import jobs_pb2, namespaces_pb2, runs_pb2, types_pb2, worker_store_pb2, worker_store_pb2_grpc
from stepwell_server.store import batches, namespaces, task_queues


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


async def create(service: Service, name: str) -> None:
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace=name))


async def delete(service: Service, name: str) -> bool:
    request = namespaces_pb2.DeleteNamespaceRequest(namespace=name)
    return bool((await service.namespace_calls.DeleteNamespace(request)).deleted)


async def known(service: Service, name: str) -> str:
    """How a start in a namespace is refused, or nothing."""
    call = service.runs.SignalRun(runs_pb2.SignalRunRequest(namespace=name, workflow_id="none", signal_name="s"))
    return (await refusal(call))[1]


async def test_a_namespace_is_created_once(service: Service) -> None:
    calls = service.namespace_calls
    made = await calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="a.b-c_1"))
    found = await calls.GetNamespace(namespaces_pb2.GetNamespaceRequest(namespace="a.b-c_1"))
    assert made.namespace == found.namespace
    assert found.namespace.HasField("create_time")
    again = calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="a.b-c_1"))
    assert await refusal(again) == ("ALREADY_EXISTS", "NAMESPACE_EXISTS")
    main = await calls.GetNamespace(namespaces_pb2.GetNamespaceRequest())
    assert main.namespace.name == "main"
    none = calls.GetNamespace(namespaces_pb2.GetNamespaceRequest(namespace="none"))
    assert await refusal(none) == ("NOT_FOUND", "NAMESPACE_NOT_FOUND")


@pytest.mark.parametrize("name", ["", "-", "a b", "a\0", "ä", "x" * 256])
async def test_a_wrong_name_is_refused(shared: Service, name: str) -> None:
    for call, request in (
        (shared.namespace_calls.CreateNamespace, namespaces_pb2.CreateNamespaceRequest(namespace=name)),
        (shared.namespace_calls.DeleteNamespace, namespaces_pb2.DeleteNamespaceRequest(namespace=name)),
    ):
        assert await refusal(call(request)) == ("INVALID_ARGUMENT", "INVALID_FIELD")


async def test_namespaces_are_listed_by_name(service: Service) -> None:
    for name in ("c", "a", "b"):
        await create(service, name)
    names: list[str] = []
    token = ""
    while True:
        request = namespaces_pb2.ListNamespacesRequest(page_size=3, page_token=token)
        response = await service.namespace_calls.ListNamespaces(request)
        names += [each.name for each in response.namespaces]
        token = response.next_page_token
        if not token:
            break
    assert names == ["a", "b", "c", "main"]


async def test_only_an_empty_namespace_is_deleted(service: Service) -> None:
    """Open and ended runs keep it; `main` and what is not there are answered with false."""
    await create(service, "a")
    run_id = await service.begin(namespace="a")
    refused = service.namespace_calls.DeleteNamespace(namespaces_pb2.DeleteNamespaceRequest(namespace="a"))
    assert await refusal(refused) == ("FAILED_PRECONDITION", "NAMESPACE_NOT_EMPTY")
    await service.end(run_id, "a")
    refused = service.namespace_calls.DeleteNamespace(namespaces_pb2.DeleteNamespaceRequest(namespace="a"))
    assert await refusal(refused) == ("FAILED_PRECONDITION", "NAMESPACE_NOT_EMPTY")
    await create(service, "b")
    assert [await delete(service, name) for name in ("b", "b", "none", "main")] == [True, False, False, False]
    assert await known(service, "b") == "NAMESPACE_NOT_FOUND"
    assert await known(service, "main") == "RUN_NOT_FOUND"


async def test_a_namespace_is_known_as_soon_as_it_is_there(service: Service) -> None:
    """That it was not there is not remembered, on no replica."""
    async with serving(service.settings.database_url or "") as other:
        for each in (service, other):
            assert await known(each, "a") == "NAMESPACE_NOT_FOUND"
        await create(service, "a")
        for each in (service, other):
            assert await known(each, "a") == "RUN_NOT_FOUND"


async def test_what_was_deleted_elsewhere_is_forgotten(service: Service) -> None:
    """A replica looks again after a while."""
    async with serving(service.settings.database_url or "") as other:
        await create(service, "a")
        assert await known(other, "a") == "RUN_NOT_FOUND"
        assert await delete(service, "a")
        assert await known(other, "a") == "RUN_NOT_FOUND"
        row, until = other.namespaces._known["a"]
        assert 0 < until - time.monotonic() < 10
        other.namespaces._known["a"] = (row, 0.0)
        assert await known(other, "a") == "NAMESPACE_NOT_FOUND"


@pytest_asyncio.fixture
async def other(service: Service) -> AsyncIterator[Service]:
    """Another replica, which has just looked at the namespace `a`."""
    async with serving(service.settings.database_url or "", committers=2) as running:
        await create(service, "a")
        assert await known(running, "a") == "RUN_NOT_FOUND"
        yield running


async def runs_in(service: Service) -> int:
    async with look(service.settings.database_url or "") as database:
        return int(await database.value("SELECT count(*) FROM runs WHERE namespace_id <> 1"))


async def test_nothing_comes_into_a_namespace_that_was_deleted_elsewhere(service: Service, other: Service) -> None:
    """Also where it is still taken for known: runs, jobs and workers."""
    assert await delete(service, "a")
    start = runs_pb2.StartRunRequest(namespace="a", type="t")
    signal = runs_pb2.SignalWithStartRunRequest(namespace="a", start=start, signal_name="s")
    signal.start.workflow_id = "w"
    workers: Any = worker_store_pb2_grpc.WorkerStoreStub
    for call in (
        other.runs.StartRun(start),
        other.runs.SignalWithStartRun(signal),
        other.jobs.StartJob(jobs_pb2.StartJobRequest(namespace="a", type="t")),
        workers(other.channel).RegisterWorker(worker_store_pb2.RegisterWorkerRequest(namespace="a", worker_id="w")),
    ):
        assert await refusal(call) == ("NOT_FOUND", "NAMESPACE_NOT_FOUND")
    async with look(service.settings.database_url or "") as database:
        assert not await database.rows("SELECT FROM jobs UNION ALL SELECT FROM workers")
    assert await runs_in(service) == 0


@pytest.mark.parametrize("goes", [True, False])
async def test_a_start_waits_for_a_deletion_under_way(service: Service, other: Service, goes: bool) -> None:
    """It is refused if that goes through, and begins if not; starts in other namespaces go on meanwhile."""
    async with look(service.settings.database_url or "") as deleting:
        transaction = deleting.raw.transaction()
        await transaction.start()
        await deleting.raw.execute("SELECT FROM namespaces WHERE name = 'a' FOR UPDATE")
        start = asyncio.ensure_future(other.runs.StartRun(runs_pb2.StartRunRequest(namespace="a", type="t")))
        for _ in range(4):
            await other.begin()
        assert not start.done()
        if goes:
            await deleting.raw.execute("DELETE FROM namespaces WHERE name = 'a'")
        await (transaction.commit if goes else transaction.rollback)()
        if goes:
            assert await refusal(start) == ("NOT_FOUND", "NAMESPACE_NOT_FOUND")
        else:
            assert (await start).started
    assert await runs_in(service) == (0 if goes else 1)


async def test_a_deletion_waits_for_a_start_under_way(
    service: Service, other: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds the run, though that was not committed when it was asked for."""
    written, go_on, write = asyncio.Event(), asyncio.Event(), batches.write

    async def slow(connection: Any, batch: batches.Write) -> None:
        await write(connection, batch)
        written.set()
        await go_on.wait()

    monkeypatch.setattr(batches, "write", slow)
    start = asyncio.ensure_future(other.runs.StartRun(runs_pb2.StartRunRequest(namespace="a", type="t")))
    await written.wait()
    deletion = asyncio.ensure_future(delete(service, "a"))
    async with look(service.settings.database_url or "") as database:
        waiting = (
            "SELECT count(*) > 0 FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%namespaces%'"
        )

        async def is_held_up() -> bool:
            return deletion.done() or bool(await database.value(waiting))

        await soon(is_held_up)
    go_on.set()
    assert await refusal(deletion) == ("FAILED_PRECONDITION", "NAMESPACE_NOT_EMPTY")
    assert (await start).started


async def test_many_who_ask_at_once_ask_once(service: Service) -> None:
    await create(service, "a")
    service.namespaces._known.clear()
    asked = 0
    read = service.namespaces._read

    async def counted(name: str) -> namespaces.NamespaceRow | None:
        nonlocal asked
        asked += 1
        return await read(name)

    service.namespaces._read = counted  # type: ignore[method-assign]
    ids = await asyncio.gather(*(service.namespaces.id_of("a") for _ in range(50)))
    assert len(set(ids)) == 1
    assert asked == 1


async def test_stats_count_runs_by_phase(service: Service) -> None:
    """An unknown namespace counts as empty."""
    await create(service, "a")
    ids = [await service.begin(namespace="a", task_queue=queue) for queue in ("p", "p", "q")]
    await service.begin()
    await service.end(ids[0], "a")
    calls = service.namespace_calls
    stats = await calls.GetNamespaceStats(namespaces_pb2.GetNamespaceStatsRequest(namespace="a"))
    counts = {each.phase: each.count for each in stats.runs}
    assert counts == {types_pb2.RUN_PHASE_PENDING: 2, types_pb2.RUN_PHASE_TERMINATED: 1}
    assert (stats.namespace, stats.total_runs, stats.workers) == ("a", 3, 0)
    assert (stats.waiting_runs.count, stats.waiting_runs.has_more, stats.waiting_activities.count) == (2, False, 0)
    oldest = stats.waiting_runs.oldest_wait_duration.ToNanoseconds()
    run = await service.get(ids[1], "a")
    assert 0 < oldest <= (service.clock.now() - run.create_time.ToDatetime(UTC)).total_seconds() * 1e9
    assert not stats.waiting_activities.HasField("oldest_wait_duration")
    empty = await calls.GetNamespaceStats(namespaces_pb2.GetNamespaceStatsRequest(namespace="none"))
    assert (empty.total_runs, list(empty.runs), empty.waiting_runs.count) == (0, [], 0)


async def test_stats_say_that_there_are_more_queues_than_they_look_at(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_queues, "MOST_QUEUES", 2)
    for queue in ("p", "q", "r"):
        await service.begin(task_queue=queue)
    stats = await service.namespace_calls.GetNamespaceStats(namespaces_pb2.GetNamespaceStatsRequest())
    assert (stats.waiting_runs.count, stats.waiting_runs.has_more) == (2, True)
