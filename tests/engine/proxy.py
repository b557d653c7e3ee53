"""A TCP proxy before Postgres that loses things at the worst moment: a COMMIT on its way, or the reply to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from urllib.parse import parse_qs, urlsplit, urlunsplit

_COMMIT = b"COMMIT\0"


class Lose(Enum):
    """What is lost next."""

    NOTHING = 0
    REQUEST = 1
    REPLY = 2


class Proxy:
    """See the module. `lose` is armed for one COMMIT, or for the message `at`, from 1. `away` lets nobody in."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._query = parse_qs(self._parts.query)
        self.port = 0
        self.lose = Lose.NOTHING
        self.at = 0
        self.lost = 0
        self.away = False
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """The database's address through here."""
        where = f"{self._parts.username}:{self._parts.password}@127.0.0.1:{self.port}"
        return urlunsplit(("postgresql", where, self._parts.path, "", ""))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.away:
            writer.close()
            return
        there, back = await self._upstream()
        self._writers |= {writer, back}
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(self._forth(reader, back, there, writer), self._back(there, writer))
        for each in (writer, back):
            each.close()
            self._writers.discard(each)

    async def _upstream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if "host" in self._query:
            port = self._query.get("port", ["5432"])[0]
            return await asyncio.open_unix_connection(f"{self._query['host'][0]}/.s.PGSQL.{port}")
        return await asyncio.open_connection(self._parts.hostname, self._parts.port or 5432)

    async def _forth(
        self,
        reader: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        while data := await reader.read(1 << 16):
            lose = self.lose if self._is_meant(data) else Lose.NOTHING
            if lose is Lose.NOTHING:
                back.write(data)
                await back.drain()
                continue
            self.lose = Lose.NOTHING
            self.lost += 1
            # From here on nothing comes back to the client.
            writer.transport.abort()
            if lose is Lose.REPLY:
                back.write(data)
                await back.drain()
                await asyncio.sleep(0.05)
            back.transport.abort()
            raise ConnectionResetError
        back.write_eof()

    def _is_meant(self, data: bytes) -> bool:
        if not self.at:
            return data.endswith(_COMMIT)
        self.at -= self.lose is not Lose.NOTHING
        return not self.at

    async def _back(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await there.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    def cut(self) -> None:
        """Ends every connection."""
        for writer in list(self._writers):
            writer.transport.abort()


@asynccontextmanager
async def proxy(url: str) -> AsyncIterator[Proxy]:
    made = Proxy(url)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        made.cut()
        await asyncio.sleep(0)
