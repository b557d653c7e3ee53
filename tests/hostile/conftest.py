"""One server for all of this folder: what is refused leaves nothing behind."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest_asyncio
from tests.hostile.world import World, world

from stepwell_server.embedded import create_database


@pytest_asyncio.fixture(scope="session")
async def made(server_url: str, migrated_template: str) -> AsyncIterator[World]:
    database_url = await create_database(server_url, f"hostile_{uuid.uuid4().hex[:12]}", migrated_template)
    async with world(database_url) as made:
        yield made
