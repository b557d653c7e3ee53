"""A replica for all tests of a module, and a second one beside a test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.service import Service, serving


@pytest_asyncio.fixture(scope="module")
async def shared(shared_database_url: str) -> AsyncIterator[Service]:
    """For calls that are refused: what is left behind is there for the module's next test."""
    async with serving(shared_database_url) as running:
        yield running


@pytest_asyncio.fixture
async def replica(service: Service) -> AsyncIterator[Service]:
    """A second replica. Nothing hints to it: it polls, so that all that it tells is read from the table."""
    async with serving(service.settings.database_url or "", watch_poll_seconds=0.02) as running:
        yield running
