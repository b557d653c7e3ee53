"""The service that is hurt: replicas on one Postgres of their own, in a folder; or one that is there, and left alone.

The first replica is `stepwell-server dev`, which owns the Postgres: it starts it again when it was killed, and a
Postgres that outlived its owner is adopted by the next. So that replica is never told to end, since the Postgres would
end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from stepwell.client import Client
from stepwell.errors import StepwellError
from stepwell.torture.plan import Times, TortureError
from stepwell.torture.processes import Process
from stepwell.torture.proxy import Place

_HOST = "127.0.0.1"
_STARTING_SECONDS = 90.0
_LEAVING_SECONDS = 20.0
_POLL_SECONDS = 0.05


class Service:
    """Where the replicas are."""

    def __init__(self, places: Sequence[Place]) -> None:
        """Keeps the places."""
        self.places = list(places)

    @classmethod
    def at(cls, address: str) -> Service:
        """One that is there. Raises `TortureError` for what is no `host:port`."""
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise TortureError(f"{address}: give the service as host:port")
        return cls([(host.strip("[]"), int(port))])


class OwnService(Service):
    """Replicas and a Postgres of our own."""

    def __init__(self, folder: Path, count: int, times: Times) -> None:
        """Starts nothing yet."""
        super().__init__([(_HOST, free_port()) for _ in range(count)])
        self._folder = folder
        self._data = folder / "data"
        self._times = times
        self._program = shutil.which("stepwell-server", path=str(Path(sys.executable).parent)) or shutil.which(
            "stepwell-server"
        )
        self._processes: dict[int, Process] = {}

    async def start(self) -> None:
        """Starts all. Raises `TortureError`."""
        if self._program is None:
            raise TortureError("no stepwell-server: pip install 'stepwell-server[embedded]', or give --address")
        await self.begin(0)
        await asyncio.gather(*(self.begin(number) for number in range(1, len(self.places))))

    async def begin(self, number: int) -> None:
        """Starts a replica, and waits until it serves. Raises `TortureError`."""
        port = str(self.places[number][1])
        command = ("dev", "--data-dir", str(self._data)) if number == 0 else ("serve",)
        settings = self._times.settings if number == 0 else self._times.settings | {"DATABASE_URL": self._url()}
        variables = {f"STEPWELL_{name}": value for name, value in settings.items()}
        log = self._folder / f"replica-{number}.log"
        started = await Process.start((str(self._program), *command, "--port", port), variables, log)
        self._processes[number] = started
        await self._serves(number, started)

    async def _serves(self, number: int, started: Process) -> None:
        end = time.monotonic() + _STARTING_SECONDS
        while started.code is None and time.monotonic() < end:
            with contextlib.suppress(StepwellError, TimeoutError, OSError):
                async with await Client.connect(f"{_HOST}:{self.places[number][1]}", connect_timeout=2) as client:
                    async for _ in client.list_namespaces():
                        return
            await asyncio.sleep(_POLL_SECONDS)
        raise TortureError(f"replica {number} does not serve: see {started.log}")

    async def kill(self, number: int) -> None:
        """Kills a replica."""
        await self._processes[number].kill()

    async def leave(self, number: int) -> bool:
        """Tells a replica to end; False if it did not do so in order."""
        return await self._processes[number].leaves(_LEAVING_SECONDS)

    def send(self, number: int, what: signal.Signals) -> None:
        """Sends a signal to a replica."""
        self._processes[number].send(what)

    def fallen(self) -> list[int]:
        """Those that do not run."""
        return [number for number, process in self._processes.items() if process.code is not None]

    async def strike_database(self, what: signal.Signals) -> None:
        """Ends the Postgres by a signal, and waits until its owner has started it again. Raises `TortureError`."""
        before = self._postmaster()
        if before is None:
            raise TortureError("the Postgres is not there")
        os.kill(before, what)
        end = time.monotonic() + _STARTING_SECONDS
        while time.monotonic() < end:
            await asyncio.sleep(_POLL_SECONDS)
            if self._postmaster() not in {None, before} and self._told()[-1:] == ["ready"]:
                return
        raise TortureError(f"the Postgres did not come back: see {self._data}")

    async def close(self) -> None:
        """Ends all: the owner of the Postgres last, and the Postgres with it."""
        others = [process for number, process in self._processes.items() if number]
        await asyncio.gather(*(process.end(_LEAVING_SECONDS) for process in others))
        if 0 in self._processes:
            await self._processes[0].end(_LEAVING_SECONDS + 10)
        await self._end_postgres()

    async def _end_postgres(self) -> None:
        """Where its owner could not end it any more."""
        for what in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            left = self._postmaster()
            if left is None:
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, what)
            for _ in range(100):
                if self._postmaster() is None:
                    return
                await asyncio.sleep(_POLL_SECONDS)

    def _told(self) -> list[str]:
        """What the Postgres wrote into its pid file: its id, its port in the fourth line, how it is in the last."""
        with contextlib.suppress(OSError):
            return [line.strip() for line in (self._data / "pgdata/postmaster.pid").read_text().splitlines()]
        return []

    def _postmaster(self) -> int | None:
        """The Postgres of our folder, if it lives; the file may be that of one that does not."""
        told = self._told()
        if not told or not told[0].isdigit():
            return None
        pid = int(told[0])
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat")
            is_dead = state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return None
        return None if is_dead else pid

    def _url(self) -> str:
        password = (self._data / "password").read_text().strip()
        return f"postgresql://postgres:{password}@{_HOST}:{self._told()[3]}/postgres"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
