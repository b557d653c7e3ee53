"""What may happen to a COMMIT on its way from a service to its database, and to the reply."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import asyncpg
from tests.chaos.kit import Link, Proxy


class CommitCutter:
    """Cuts the service off from its database at every n-th COMMIT: in turn before it arrives, and before its reply."""

    def __init__(self, proxy: Proxy, every: int) -> None:
        self._proxy = proxy
        self._every = every
        self._seen = 0
        self.before = 0
        self.after = 0
        proxy.on_request = self._look

    def stop(self) -> None:
        self._proxy.on_request = None

    async def _look(self, data: bytes, link: Link) -> bool:
        if b"COMMIT\x00" not in data:
            return True
        self._seen += 1
        if self._seen % self._every:
            return True
        if self._seen // self._every % 2:
            self.before += 1
            return False
        self.after += 1
        link.on_answer = _never
        return True


async def _never() -> bool:
    return False


class CommitHolder:
    """Holds one batch's COMMIT back, or lets it through and holds its reply back, until both are lost.

    `look` is a connection that does not pass the proxy. It tells a batch that has been written from others.
    """

    def __init__(self, proxy: Proxy, look: asyncpg.Connection, *, reply: bool) -> None:
        self._look = look
        self._reply = reply
        self._lost = asyncio.Event()
        self._held: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._xid: int | None = None
        proxy.on_request = self._on_request

    async def held(self) -> int:
        """The number of the transaction whose COMMIT, or its reply, does not arrive."""
        async with asyncio.timeout(60):
            return await self._held

    def lose(self) -> None:
        """What is held never arrives, and its connection ends."""
        self._lost.set()

    async def _on_request(self, data: bytes, link: Link) -> bool:
        if self._xid is not None or b"COMMIT\x00" not in data:
            return True
        self._xid = await self._look.fetchval(_WRITTEN, link.port)
        if self._xid is None:
            return True
        if not self._reply:
            return await self._hold()
        link.on_answer = self._hold
        return True

    async def _hold(self) -> bool:
        assert self._xid is not None
        self._held.set_result(self._xid)
        await self._lost.wait()
        return False


async def outcome(look: asyncpg.Connection, xid: int) -> str:
    """What became of a transaction: in progress, committed or aborted."""
    status: str = await look.fetchval("SELECT pg_xact_status($1::text::xid8)", str(xid))
    return status


async def is_over(look: asyncpg.Connection, xid: int) -> bool:
    """Whether a transaction was committed or aborted."""
    return await outcome(look, xid) != "in progress"


# The transaction of the backend that serves a port, if it is open and has written a batch.
_WRITTEN = """
    SELECT a.backend_xid::text::bigint
    FROM pg_stat_activity AS a
    INNER JOIN pg_locks AS l ON l.pid = a.pid
    WHERE a.client_port = $1 AND a.state = 'idle in transaction' AND a.backend_xid IS NOT NULL
        AND l.relation = 'stepwell.batches'::regclass AND l.mode = 'RowExclusiveLock'
"""


def through(database_url: str, proxy: Proxy) -> str:
    """The database's address by way of the proxy."""
    parts = urlsplit(database_url)
    return f"postgresql://{parts.username}:{parts.password}@127.0.0.1:{proxy.port}{parts.path}"
