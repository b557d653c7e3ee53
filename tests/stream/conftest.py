"""Replicas for the tests of the protocol: one, or two on one database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.stream.kit import Replica, replica

from stepwell_server.dispatch import upkeep


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas that are made after this look every half second, not every five, for what no hint told them."""
    monkeypatch.setattr(upkeep, "_RECONCILE_SECONDS", 0.5)


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Replica]:
    async with replica(database_url) as made:
        yield made


@pytest_asyncio.fixture
async def two(database_url: str) -> AsyncIterator[tuple[Replica, Replica]]:
    async with replica(database_url) as first, replica(database_url) as second:
        await first.service.hints.wait_company()
        await second.service.hints.wait_company()
        yield first, second


@pytest_asyncio.fixture
async def far(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Replica, Replica]]:
    """Two that hear of each other by hints alone: the next look is ten minutes away."""
    monkeypatch.setattr(upkeep, "_RECONCILE_SECONDS", 600.0)
    polls = dict.fromkeys(("dispatch_poll_seconds", "mail_poll_seconds"), 600.0)
    async with replica(database_url, **polls) as first, replica(database_url, **polls) as second:
        await first.service.hints.wait_company()
        await second.service.hints.wait_company()
        yield first, second


@pytest_asyncio.fixture(scope="module")
async def shared(shared_database_url: str) -> AsyncIterator[Replica]:
    """For calls that are refused: what is left behind is there for the module's next test."""
    async with replica(shared_database_url) as made:
        yield made
