"""Spans in memory, and a replica that makes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.stream.kit import Replica, replica

from stepwell_server import telemetry


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    telemetry.set_up_tracing([SimpleSpanProcessor(exporter)])
    yield exporter
    telemetry.shut_down_tracing()


@pytest_asyncio.fixture
async def one(spans: InMemorySpanExporter, database_url: str) -> AsyncIterator[Replica]:
    # Each claim and each heartbeat is counted: nobody may lose a task by being slow.
    async with replica(database_url, session_seconds=60.0, ack_seconds=30.0) as made:
        yield made
