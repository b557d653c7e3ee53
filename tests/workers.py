"""Workers of the SDK at work for as long as a test needs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from stepwell import Client, Worker


@asynccontextmanager
async def at_work(client: Client, *workflows: Any, activities: Any = (), **options: Any) -> AsyncIterator[Worker]:
    """A worker of the queue `q` that finishes what it has at the end."""
    worker = Worker(client, "q", workflows=workflows, activities=activities, drain_seconds=1, **options)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.shutdown()
        async with asyncio.timeout(60):
            await running
