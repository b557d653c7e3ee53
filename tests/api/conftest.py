"""A replica for all tests of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.service import Service, serving


@pytest_asyncio.fixture(scope="module")
async def shared(shared_database_url: str) -> AsyncIterator[Service]:
    """For calls that are refused: what is left behind is there for the module's next test."""
    async with serving(shared_database_url) as running:
        yield running
