"""One replica for all cases, and for each case an engine in a namespace of its own."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator

import grpc.aio
import pytest_asyncio
from tests.parity.cases import Engine, Recorder

from stepwell_server.embedded import create_database
from stepwell_server.service import Service
from stepwell_server.settings import Settings

_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="session")
async def replica(server_url: str, migrated_template: str) -> AsyncIterator[Service]:
    database_url = await create_database(server_url, f"parity_{uuid.uuid4().hex[:12]}", migrated_template)
    async with Service(Settings(database_url=database_url, port=0, shutdown_seconds=1.0)) as service:
        yield service


@pytest_asyncio.fixture
async def engine(replica: Service) -> AsyncIterator[Engine]:
    recorder = Recorder()
    async with grpc.aio.insecure_channel(replica.address, interceptors=[recorder]) as channel:
        engine = Engine(channel, f"case-{next(_numbers)}", recorder)
        await engine.call("CreateNamespace")
        recorder.called.clear()
        yield engine
