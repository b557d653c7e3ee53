"""The places of worker processes: whoever is killed there, or leaves, is followed by another of the same command."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shlex
import signal
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stepwell.torture.ledger import Line, read
from stepwell.torture.plan import TortureError
from stepwell.torture.processes import Process
from stepwell.torture.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.torture.service import Service

_READY_SECONDS = 60.0
# A worker is given 30 s by its SDK to finish what it is at, and some to say so.
_LEAVING_SECONDS = 50.0
_PAUSE_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Crash:
    """A worker that ended though nobody had told it to."""

    worker: str
    time: float
    code: int
    log: Path


class Seat:
    """One place: a command, a way to the service, and the process that has it now, named `2.5` for its fifth."""

    def __init__(self, number: int, command: str, folder: Path, variables: Mapping[str, str]) -> None:
        """Starts nothing yet."""
        self.number = number
        self.command = command
        self.crashes: list[Crash] = []
        self.ledgers: dict[str, Path] = {}
        self.proxy: Proxy
        self._folder = folder
        self._variables = variables
        self._count = 0
        self._process: Process | None = None
        self._is_struck = False
        self._watch: asyncio.Task[None] | None = None

    @property
    def worker(self) -> str:
        """The name of the process that has it now."""
        return f"{self.number}.{self._count}"

    def lines(self) -> list[Line]:
        """What the process that has it now has written into its ledger."""
        return read(self.ledgers[self.worker], self.worker)

    async def begin(self) -> None:
        """Starts a process, and waits until it is ready. Raises `TortureError` if none comes to be."""
        end = time.monotonic() + _READY_SECONDS
        while not await self._try(end):  # noqa: ASYNC110 - the next one is another process
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _try(self, end: float) -> bool:
        self._count += 1
        self._is_struck = False
        ledger = self.ledgers[self.worker] = self._folder / f"ledger-{self.worker}.jsonl"
        log = self._folder / f"worker-{self.worker}.log"
        variables = {
            **self._variables,
            "STEPWELL_ADDRESS": f"127.0.0.1:{self.proxy.port}",
            "STEPWELL_LEDGER": str(ledger),
        }
        try:
            process = await Process.start(shlex.split(self.command), variables, log)
        except OSError as error:
            raise TortureError(f"{self.command!r} can't be started: {error}") from None
        self._process = process
        ready, ended = asyncio.create_task(process.said.wait()), asyncio.create_task(process.wait())
        await asyncio.wait((ready, ended), timeout=end - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
        is_ready = ready.done() and not ended.done()
        for task in (ready, ended):
            task.cancel()
        if is_ready:
            self._watch = asyncio.create_task(self._watch_over(process, self.worker))
            return True
        await process.end()
        if time.monotonic() >= end:
            raise TortureError(f"{self.command!r} did not say that it is ready: see {log}")
        return False

    async def _watch_over(self, process: Process, worker: str) -> None:
        code = await process.wait()
        if self._is_struck:
            return
        self.crashes.append(Crash(worker, time.time(), code, process.log))
        await self.begin()

    @property
    def is_there(self) -> bool:
        """Whether a process is at work."""
        return self._process is not None and self._process.code is None and self._process.said.is_set()

    def send(self, what: signal.Signals) -> None:
        """Sends a signal to whoever has it."""
        if self._process is not None:
            self._process.send(what)

    async def kill(self) -> None:
        """Kills whoever has it."""
        if self._process is not None:
            self._is_struck = True
            await self._process.kill()

    async def leave(self) -> bool:
        """Tells whoever has it to leave; False if that was not in order."""
        self._is_struck = True
        return self._process is None or await self._process.leaves(_LEAVING_SECONDS)

    async def end(self) -> None:
        """Nobody has it any more."""
        self._is_struck = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._process is not None:
            await self._process.end()


@contextlib.asynccontextmanager
async def seated(seats: Sequence[Seat], service: Service) -> AsyncIterator[None]:
    """All places taken, each with a way of its own to the service; at the end nobody is there."""
    async with contextlib.AsyncExitStack() as stack:
        for seat in seats:
            seat.proxy = await stack.enter_async_context(_way_of(seat, service))
        try:
            await asyncio.gather(*(seat.begin() for seat in seats))
            yield
        finally:
            await asyncio.gather(*(seat.end() for seat in seats))


def _way_of(seat: Seat, service: Service) -> Proxy:
    return Proxy(lambda: service.places, lambda: seat.worker)
