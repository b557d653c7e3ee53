"""A real service whose clock the tests move, a client, and workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest_asyncio
from tests.stream.kit import SECONDS, Replica, replica

from stepwell import Client, Worker
from stepwell.policies import duration
from stepwell.v1 import clock_pb2
from stepwell.v1.clock_pb2_grpc import ClockServiceStub

Working = Callable[..., Any]
Advance = Callable[[float], Awaitable[None]]


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Replica]:
    async with replica(database_url, test_clock=True) as made:
        yield made


@pytest_asyncio.fixture
async def client(one: Replica) -> AsyncIterator[Client]:
    async with await Client.connect(one.service.address, call_timeout=60) as made:
        yield made


@pytest_asyncio.fixture
async def advance(one: Replica) -> Advance:
    """Moves the service's clock."""
    stub: Any = ClockServiceStub(one.channel)

    async def move(seconds: float) -> None:
        await stub.AdvanceClock(clock_pb2.AdvanceClockRequest(by=duration(seconds)), timeout=SECONDS)

    return move


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
