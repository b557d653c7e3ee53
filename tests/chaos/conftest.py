"""A stage for each test: a fresh database, and a folder for logs and effects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest_asyncio
from tests.chaos.kit import Proxy, Stage, stage


@pytest_asyncio.fixture
async def scene(tmp_path: Path, database_url: str) -> AsyncIterator[Stage]:
    async with stage(tmp_path, database_url) as made:
        yield made


@pytest_asyncio.fixture
async def between(database_url: str) -> AsyncIterator[Proxy]:
    """Stands between a service and its database."""
    port = int(parse_qs(urlsplit(database_url).query)["port"][0])
    async with Proxy("127.0.0.1", port) as proxy:
        yield proxy
