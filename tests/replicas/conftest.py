"""A stage for each test: a fresh database, and a folder for logs and effects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from tests.chaos.kit import Stage, stage


@pytest_asyncio.fixture
async def scene(tmp_path: Path, database_url: str) -> AsyncIterator[Stage]:
    async with stage(tmp_path, database_url) as made:
        yield made
