"""Namespaces over the wire, and what replicas know of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.service import Service, refusal, serving

from stepwell.v1 import namespaces_pb2, runs_pb2, types_pb2
from stepwell_server.store import namespaces


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
async def test_a_wrong_name_is_refused(service: Service, name: str) -> None:
    for call, request in (
        (service.namespace_calls.CreateNamespace, namespaces_pb2.CreateNamespaceRequest(namespace=name)),
        (service.namespace_calls.DeleteNamespace, namespaces_pb2.DeleteNamespaceRequest(namespace=name)),
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
    ids = [await service.begin(namespace="a") for _ in range(3)]
    await service.begin()
    await service.end(ids[0], "a")
    calls = service.namespace_calls
    stats = await calls.GetNamespaceStats(namespaces_pb2.GetNamespaceStatsRequest(namespace="a"))
    counts = {each.phase: each.count for each in stats.runs}
    assert counts == {types_pb2.RUN_PHASE_PENDING: 2, types_pb2.RUN_PHASE_TERMINATED: 1}
    assert (stats.namespace, stats.total_runs, stats.workers) == ("a", 3, 0)
    empty = await calls.GetNamespaceStats(namespaces_pb2.GetNamespaceStatsRequest(namespace="none"))
    assert (empty.total_runs, list(empty.runs)) == (0, [])
