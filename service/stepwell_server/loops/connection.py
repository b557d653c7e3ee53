"""The duties' connection: one for all of them, since none is in a hurry, opened again when it is gone."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database


class SharedConnection:
    """Used by one at a time."""

    def __init__(self, database: Database, purpose: str = "duties") -> None:
        self._database = database
        self._purpose = purpose
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[Connection]:
        """Raises Lost if the database can't be reached."""
        async with self._lock:
            if self._connection is None or self._connection.closed:
                self._connection = await self._database.connect(self._purpose)
            try:
                yield self._connection
            except BaseException:
                # Whatever it was: a statement may still be under way, and the next user gets a clean one.
                await self._close()
                raise

    async def close(self) -> None:
        """Closes it; the next use opens another."""
        async with self._lock:
            await self._close()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
