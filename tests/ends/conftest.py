"""A real service whose clock the tests move, a client, and workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from tests.stream.kit import SECONDS, Replica, replica
from tests.workers import at_work

from stepwell import Client
from stepwell.policies import duration
from stepwell.v1 import clock_pb2
from stepwell.v1.clock_pb2_grpc import ClockServiceStub

Working = Callable[..., Any]
Advance = Callable[[float], Awaitable[None]]


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Replica]:
    # However slow the machine is, what a worker has stays its own.
    async with replica(database_url, test_clock=True, session_seconds=600.0, ack_seconds=300.0) as made:
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


@pytest.fixture
def working(client: Client) -> Working:
    return partial(at_work, client)
