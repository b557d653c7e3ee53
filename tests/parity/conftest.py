"""Two replicas for all cases, and for each case an engine in a namespace of its own."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest_asyncio
from tests.parity.cases import Engine, Hollow, Recorder

from stepwell_server.embedded import create_database
from stepwell_server.service import Service
from stepwell_server.settings import Settings

Engines = Callable[[Hollow | None], Awaitable[Engine]]

_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="session")
async def replicas(server_url: str, migrated_template: str) -> AsyncIterator[tuple[Service, Service]]:
    database_url = await create_database(server_url, f"parity_{uuid.uuid4().hex[:12]}", migrated_template)
    settings = Settings(database_url=database_url, port=0, shutdown_seconds=1.0)
    async with Service(settings) as first, Service(settings) as second:
        yield first, second


@pytest_asyncio.fixture
async def engines(replicas: tuple[Service, Service]) -> AsyncIterator[Engines]:
    """Engines, each in a namespace of its own; the answers that one gets may be hollow."""
    async with AsyncExitStack() as stack:

        async def make(hollow: Hollow | None = None) -> Engine:
            recorder = Recorder()
            engine = Engine(tuple(each.address for each in replicas), f"case-{next(_numbers)}", recorder)
            stack.push_async_callback(engine.close)
            await engine.call("CreateNamespace")
            recorder.called.clear()
            recorder.hollow = hollow
            return engine

        yield make


@pytest_asyncio.fixture
async def engine(engines: Engines) -> Engine:
    return await engines(None)
