"""Client and worker against a real replica, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.stream.kit import Replica, replica

from stepwell import Client, Worker


class Live:
    """A replica, and a client of it. A run whose worker leaves is replayed by the next one."""

    def __init__(self, server: Replica, client: Client) -> None:
        self.server = server
        self.client = client

    @asynccontextmanager
    async def working(self, **options: Any) -> AsyncIterator[Worker]:
        """A worker that is connected."""
        worker = Worker(self.client, "default", **{"drain_seconds": 1, **options})
        running = asyncio.create_task(worker.run())
        connected = asyncio.create_task(worker.is_connected.wait())
        await asyncio.wait((running, connected), return_when=asyncio.FIRST_COMPLETED)
        try:
            yield worker
        finally:
            connected.cancel()
            worker.shutdown()
            async with asyncio.timeout(60):
                await running


@asynccontextmanager
async def live(database_url: str, **settings: Any) -> AsyncIterator[Live]:
    async with (
        replica(database_url, **settings) as server,
        await Client.connect(server.service.address, call_timeout=60) as client,
    ):
        yield Live(server, client)
