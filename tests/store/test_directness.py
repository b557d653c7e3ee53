"""Whether a connection has a session of its own, told from what it and another one see; see also main/test_poolers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from stepwell_server.store.directness import Misaddressed, require_direct

PATH = '"stepwell"'


class Pooler:
    """Lends the session that came back last; `keeps` one for each connection instead, in session mode."""

    def __init__(self, *, keeps: bool, search_path: str = PATH) -> None:
        self.keeps = keeps
        self.search_path = search_path
        self.free = [1, 2]

    async def connect(self) -> Any:
        return Connection(self)


class Connection:
    """A connection through it."""

    def __init__(self, pooler: Pooler) -> None:
        self.pooler = pooler
        self.own = pooler.free.pop() if pooler.keeps else 0

    def get_server_pid(self) -> int:
        return 999

    async def fetchval(self, question: str) -> Any:
        if "search_path" in question:
            return self.pooler.search_path
        return self.own or self.pooler.free[-1]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        lent = 0 if self.pooler.keeps else self.pooler.free.pop()
        self.own = self.own or lent
        try:
            yield
        finally:
            if lent:
                self.own = 0
                self.pooler.free.append(lent)

    def terminate(self) -> None:
        """Gone."""


async def test_a_session_that_a_transaction_takes_away_is_none() -> None:
    pooler = Pooler(keeps=False)
    with pytest.raises(Misaddressed, match="STEPWELL_POOL_URL"):
        await require_direct(await pooler.connect(), PATH, pooler.connect)


async def test_a_session_that_lacks_its_settings_is_none() -> None:
    pooler = Pooler(keeps=True, search_path="public")
    with pytest.raises(Misaddressed):
        await require_direct(await pooler.connect(), PATH, pooler.connect)


async def test_a_session_that_is_kept_is_one() -> None:
    pooler = Pooler(keeps=True)
    await require_direct(await pooler.connect(), PATH, pooler.connect)


async def test_postgres_itself_is_asked_once(database_url: str) -> None:
    async def another() -> asyncpg.Connection:
        raise AssertionError("one is enough")

    connection = await asyncpg.connect(database_url)
    await require_direct(connection, "whatever", another)
    await connection.close()
