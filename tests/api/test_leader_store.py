"""LeaderStore: one leads, for its time; assay's contract case by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.api.stores import Store, span
from tests.service import Service, refusal, serving

from stepwell.v1 import namespaces_pb2


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url, committers=2) as running:
        yield running


@pytest.fixture
def store(service: Service) -> Store:
    return Store(service, "leader")


async def lead(store: Store, holder: str, ttl: float = 60, name: str = "scheduler", **fields: Any) -> Any:
    return await store.call("AcquireLeadership", leadership=name, holder_id=holder, ttl=span(ttl), **fields)


async def test_assay_29_leader_election(store: Store) -> None:
    first = await lead(store, "a")
    assert (first.acquired, first.holder_id) == (True, "a")
    again = await lead(store, "a")
    assert (again.acquired, again.token) == (True, first.token)
    other = await lead(store, "b")
    assert (other.acquired, other.token, other.holder_id) == (False, 0, "a")


@pytest.mark.parametrize("follower", ["a", "b"])
async def test_a_leader_whose_time_is_over_is_followed_under_a_higher_token(store: Store, follower: str) -> None:
    """Also by itself: it can not know that nobody led meanwhile."""
    first = await lead(store, "a", 0.05)
    # Its time passes by the clock of the service.
    await asyncio.sleep(0.1)
    second = await lead(store, follower)
    assert (second.acquired, second.token) == (True, first.token + 1)
    assert not (await lead(store, "c")).acquired


async def test_one_of_many_leads(service: Service, store: Store, database_url: str) -> None:
    async with serving(database_url) as other:
        stores = (store, Store(other, "leader"))
        answers = await asyncio.gather(*(lead(stores[place % 2], f"h{place}") for place in range(8)))
    assert sum(answer.acquired for answer in answers) == 1


async def test_leaderships_are_apart_by_name_and_namespace(service: Service, store: Store) -> None:
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="ns"))
    assert (await lead(store, "a")).acquired
    assert (await lead(store, "b", name="other")).acquired
    assert (await lead(store, "b", namespace="ns")).acquired
    assert (await refusal(lead(store, "")))[1] == "INVALID_FIELD"
