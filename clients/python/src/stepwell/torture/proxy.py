"""Stands between somebody and the replicas: leads each connection to one of them, and can cut, hold up and refuse."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Self

_PIECE = 65_536

Place = tuple[str, int]


@dataclasses.dataclass(slots=True)
class Link:
    """A connection that was led to a replica: from when to when, whose it was, and when they last said something."""

    whose: str
    replica: int
    begin: float
    end: float = float("inf")
    heard: float = float("inf")


class Proxy:
    """A way to the service. `whose` tells who uses it at the moment, `replicas` where they are."""

    def __init__(self, replicas: Callable[[], Sequence[Place]], whose: Callable[[], str]) -> None:
        """Entering it opens it."""
        self.links: list[Link] = []
        self._replicas = replicas
        self._whose = whose
        self._open: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._turn = itertools.count()
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self._server: asyncio.Server
        self._serving: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        """Listens."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cuts all, and listens no more."""
        self._server.close()
        self.cut()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def cut(self) -> None:
        """Breaks every connection off."""
        for ends in list(self._open):
            for writer in ends:
                with contextlib.suppress(OSError, RuntimeError):
                    writer.transport.abort()

    @contextlib.asynccontextmanager
    async def severed(self) -> AsyncIterator[None]:
        """Breaks every connection off, and takes none meanwhile."""
        self._refuses = True
        self.cut()
        try:
            yield
        finally:
            self._refuses = False

    @contextlib.asynccontextmanager
    async def stalled(self) -> AsyncIterator[None]:
        """Lets nothing through meanwhile, and says nothing of it: connections stand half-open."""
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = None if self._refuses else await self._reach()
        if found is None or self._refuses:
            writer.transport.abort()
            if found is not None:
                found[2].transport.abort()
            return
        replica, there, back = found
        ends = (writer, back)
        now = time.time()
        link = Link(self._whose(), replica, now, heard=now)
        self.links.append(link)
        self._open.add(ends)
        ways = [asyncio.create_task(self._carry(reader, back, link)), asyncio.create_task(self._carry(there, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            link.end = time.time()
            self._open.discard(ends)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in ends:
                end.transport.abort()

    async def _reach(self) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter] | None:
        """The next replica in turn that takes a connection."""
        replicas = self._replicas()
        for _ in replicas:
            number = next(self._turn) % len(replicas)
            with contextlib.suppress(OSError):
                return number, *await asyncio.open_connection(*replicas[number])
        return None

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard_on: Link | None = None
    ) -> None:
        while data := await reader.read(_PIECE):
            if heard_on is not None:
                heard_on.heard = time.time()
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
