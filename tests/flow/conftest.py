"""A replica with an SDK client, and a second one on the same database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.sdk.live import Live, live


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Live]:
    async with live(database_url) as made:
        yield made


@pytest_asyncio.fixture(scope="module")
async def shared(shared_database_url: str) -> AsyncIterator[Live]:
    """For calls that are refused."""
    async with live(shared_database_url) as made:
        yield made


@pytest_asyncio.fixture
async def two(database_url: str) -> AsyncIterator[tuple[Live, Live]]:
    async with live(database_url, committers=2) as first, live(database_url, committers=2) as second:
        await first.server.service.hints.wait_company()
        await second.server.service.hints.wait_company()
        yield first, second
