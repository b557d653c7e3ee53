"""DispatchStore: FlowOrchestrator's contract on its ledger, and that nothing that was dispatched is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import grpc.aio
import pytest
import pytest_asyncio
from tests.api.stores import START, Store, at, create, span
from tests.service import Service, refusal, serving

from stepwell.v1 import namespaces_pb2


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


@pytest_asyncio.fixture
async def stores(service: Service, database_url: str) -> AsyncIterator[list[Store]]:
    """Two replicas."""
    async with serving(database_url) as other:
        yield [Store(service, "dispatch"), Store(other, "dispatch")]


@pytest.fixture
def store(service: Service) -> Store:
    return Store(service, "dispatch")


def dispatch(run_id: str, step_name: str = "s", **fields: Any) -> dict[str, Any]:
    return {"run_id": run_id, "step_name": step_name, **fields}


async def listed(store: Store, run_id: str) -> list[Any]:
    return await store.pages("ListDispatchedSteps", "dispatches", run_id=run_id, page_size=2)


async def test_a_step_is_dispatched_once_until_it_is_released(store: Store) -> None:
    """There is no such run."""
    run_id = str(uuid4())
    asked = [(await store.call("RecordDispatch", **dispatch(run_id))).inserted for _ in range(2)]
    assert asked == [True, False]
    assert (await store.call("ReleaseDispatch", **dispatch(run_id))).released
    assert not (await store.call("ReleaseDispatch", **dispatch(run_id))).released
    assert (await store.call("RecordDispatch", **dispatch(run_id))).inserted
    for step_name in ("a", "b"):
        await store.call("RecordDispatch", **dispatch(run_id, step_name))
    await store.call("ReleaseDispatch", **dispatch(run_id, "a"))
    assert [each.step_name for each in await listed(store, run_id)] == ["b", "s"]
    assert await listed(store, str(uuid4())) == []


async def test_the_carrier_s_id_is_noted(store: Store) -> None:
    run_id = str(uuid4())
    assert not (await store.call("AnnotateDispatch", **dispatch(run_id, job_id="j"))).annotated
    assert await listed(store, run_id) == []
    await store.call("RecordDispatch", **dispatch(run_id))
    assert (await store.call("AnnotateDispatch", **dispatch(run_id, job_id="j"))).annotated
    (row,) = await listed(store, run_id)
    assert (row.run_id, row.job_id, row.HasField("claim_time")) == (run_id, "j", False)


async def test_64_at_once_are_one(stores: list[Store]) -> None:
    run_id = str(uuid4())
    calls = [stores[place % 2].call("RecordDispatch", **dispatch(run_id)) for place in range(64)]
    assert sum(answer.inserted for answer in await asyncio.gather(*calls)) == 1


async def test_a_repeat_is_answered_as_the_first_was(store: Store) -> None:
    run_id = str(uuid4())
    for _ in range(2):
        assert (await store.call("RecordDispatch", **dispatch(run_id, request_id="r"))).inserted
    for _ in range(2):
        assert (await store.call("ReleaseDispatch", **dispatch(run_id, request_id="r"))).released
    assert await listed(store, run_id) == []
    other = store.call("RecordDispatch", **dispatch(run_id, "other", request_id="r"))
    assert (await refusal(other))[1] == "REQUEST_ID_REUSED"


async def take(store: Store, seconds: float, unclaimed: float = 60) -> list[str]:
    """What is unclaimed so long after now."""
    taken = await store.call("TakeUnclaimedDispatches", timeout=span(unclaimed), now=at(seconds))
    return sorted(each.step_name for each in taken.dispatches)


LATER = (2**31) - START.timestamp()
"""Long after what these tests do."""


async def test_what_nobody_claimed_is_given_out_once(stores: list[Store]) -> None:
    """To one of many that ask at once, and again when its time is over anew."""
    run_id = str(uuid4())
    await stores[0].call("RecordDispatch", **dispatch(run_id))
    assert await take(stores[0], 0) == []
    taken = await asyncio.gather(*(take(stores[place % 2], LATER) for place in range(16)))
    assert [name for names in taken for name in names] == ["s"]
    assert await take(stores[1], LATER + 59) == []
    assert await take(stores[1], LATER + 61) == ["s"]


async def test_ended_runs_are_left_alone(service: Service, store: Store) -> None:
    run_id = await create(service)
    await store.call("RecordDispatch", **dispatch(run_id))
    await Store(service, "run").call("MarkRunCompleted", run_id=run_id)
    assert await take(store, LATER) == []
    assert len(await listed(store, run_id)) == 1


async def test_namespaces_are_apart(service: Service, store: Store) -> None:
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="other"))
    run_id = str(uuid4())
    assert (await store.call("RecordDispatch", **dispatch(run_id, namespace="other"))).inserted
    assert await listed(store, run_id) == []
    assert await take(store, LATER) == []
    assert (await refusal(store.call("RecordDispatch", **dispatch(run_id, namespace="none"))))[1] == (
        "NAMESPACE_NOT_FOUND"
    )


@pytest.mark.parametrize(
    ("method", "fields", "field"),
    [
        ("RecordDispatch", {"run_id": "x", "step_name": "s"}, "run_id"),
        ("RecordDispatch", {"run_id": str(uuid4())}, "step_name"),
        ("RecordDispatch", {"run_id": str(uuid4()), "step_name": "a\0"}, "step_name"),
        ("AnnotateDispatch", {"run_id": str(uuid4()), "step_name": "s"}, "job_id"),
        ("TakeUnclaimedDispatches", {}, "timeout"),
    ],
)
async def test_bad_input_names_its_field(shared: Service, method: str, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=field) as refused:
        await Store(shared, "dispatch").call(method, **fields)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
