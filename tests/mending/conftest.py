"""A real service, a client, and workers whose code can be another one the next time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest_asyncio
from tests.stream.kit import Replica, replica

from stepwell import Client, Worker

Working = Callable[..., Any]


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Replica]:
    async with replica(database_url) as made:
        yield made


@pytest_asyncio.fixture
async def client(one: Replica) -> AsyncIterator[Client]:
    async with await Client.connect(one.service.address, call_timeout=60) as made:
        yield made


@pytest_asyncio.fixture
async def working(client: Client) -> Working:
    @asynccontextmanager
    async def work(*workflows: Any, activities: Any = (), **options: Any) -> AsyncIterator[Worker]:
        worker = Worker(client, "q", workflows=workflows, activities=activities, drain_seconds=1, **options)
        running = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            worker.shutdown()
            async with asyncio.timeout(60):
                await running

    return work
