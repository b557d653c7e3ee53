"""Databases with many rows in them, each filled once for all tests of a module, which leave it as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Self

import asyncpg
from tests.databases import Database, Databases

from stepwell_server.settings import Settings
from stepwell_server.store import database
from stepwell_server.store.connection import Connection


class Filled:
    """Those of one module."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._by_scripts: dict[tuple[str, ...], Database] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lent in self._by_scripts.values():
            await self._databases.give_back(lent)

    async def url(self, *scripts: str) -> str:
        """The URL of a database that these have filled, one after the other; of an empty one, if there are none."""
        if scripts not in self._by_scripts:
            lent = self._by_scripts[scripts] = await self._databases.lend()
            connection = await asyncpg.connect(lent.url, server_settings={"search_path": "stepwell"})
            for script in scripts:
                await connection.execute(script)
            await connection.close()
        return self._by_scripts[scripts].url

    @asynccontextmanager
    async def connected(self, *scripts: str, pinned: bool) -> AsyncIterator[Connection]:
        """A connection as the hot path has it, or with the planner left as it is; what is done on it is undone."""
        async with AsyncExitStack() as stack:
            made = database.Database(Settings(database_url=await self.url(*scripts)))
            stack.push_async_callback(made.close)
            connection = await made.connect(pinned=pinned)
            stack.push_async_callback(connection.close)
            transaction = connection.raw.transaction()
            await transaction.start()
            stack.push_async_callback(transaction.rollback)
            yield connection
