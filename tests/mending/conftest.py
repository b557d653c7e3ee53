"""A real service, a client, and workers whose code can be another one the next time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from tests.stream.kit import Replica, replica
from tests.workers import at_work

from stepwell import Client

Working = Callable[..., Any]


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Replica]:
    # However slow the machine is, what a worker has stays its own.
    async with replica(database_url, session_seconds=600.0, ack_seconds=300.0) as made:
        yield made


@pytest_asyncio.fixture
async def client(one: Replica) -> AsyncIterator[Client]:
    async with await Client.connect(one.service.address, call_timeout=60) as made:
        yield made


@pytest.fixture
def working(client: Client) -> Working:
    return partial(at_work, client)
