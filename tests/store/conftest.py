"""Databases that the tests of plans look at."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.databases import Databases
from tests.store.filled import Filled


@pytest_asyncio.fixture(scope="module")
async def filled(databases: Databases) -> AsyncIterator[Filled]:
    async with Filled(databases) as made:
        yield made
