"""A client and workers against the protocol's double."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest_asyncio
from tests.sdk.fake_service import FakeService

from stepwell import Client, Worker


@pytest_asyncio.fixture
async def service() -> AsyncIterator[FakeService]:
    fake = FakeService()  # type: ignore[abstract] # what it lacks is answered with UNIMPLEMENTED
    fake.address = await fake.start()
    yield fake
    await fake.server.stop(0)


@pytest_asyncio.fixture
async def client(service: FakeService) -> AsyncIterator[Client]:
    async with await Client.connect(service.address, call_timeout=60) as made:
        yield made


@pytest_asyncio.fixture
async def working(client: Client) -> Callable[..., Any]:
    @asynccontextmanager
    async def work(*, on: Client = client, **options: Any) -> AsyncIterator[Worker]:
        worker = Worker(on, "tests", drain_seconds=1, **options)
        running = asyncio.create_task(worker.run())
        waiting = asyncio.create_task(worker.is_connected.wait())
        await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
        try:
            yield worker
        finally:
            waiting.cancel()
            worker.shutdown()
            async with asyncio.timeout(60):
                await running

    return work
