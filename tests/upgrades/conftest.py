"""The first migration's schema full of rows, once a process; each test has a copy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from tests.upgrades.ground import database, fill_first


@pytest_asyncio.fixture(scope="session")
async def first_template(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The name of a database that came from a dump, and that nobody is connected to."""
    async with database(server_url) as url:
        await fill_first(server_url, url, tmp_path_factory.mktemp("first"))
        yield urlsplit(url).path.removeprefix("/")


@pytest_asyncio.fixture
async def first_url(server_url: str, first_template: str) -> AsyncIterator[str]:
    """A copy of it."""
    async with database(server_url, first_template) as url:
        yield url
