"""One embedded server: start or adopt, watch, restart, stop or leave.

| what happens                      | what follows                                                              |
|-----------------------------------|---------------------------------------------------------------------------|
| the server dies                   | it is started again on the same port and socket, after a short pause      |
| the owner stops                   | the server stops, unless it is told to leave it running                   |
| the owner is killed               | the server runs on; the next owner of the folder adopts it                |
| a second owner comes              | refused; the message names the first one's pid                            |
| the folder is of another version  | binaries of that version if installed, else refused                       |
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from stepwell_server.embedded.account import Account, account_for
from stepwell_server.embedded.binaries import Binaries, provide
from stepwell_server.embedded.failure import EmbeddedError
from stepwell_server.embedded.folder import SUPERUSER, DataFolder
from stepwell_server.embedded.postmaster import Postmaster, read_record, running_postmaster, was_started_with
from stepwell_server.embedded.profile import DURABLE, FAST

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

LOOPBACK = "127.0.0.1"
# Crash recovery of a large log takes its time; a start that fails ends the wait at once.
START_SECONDS = 120.0
PORT_TRIES = 5
# Below the range from which systems take the ports of outgoing connections, so that a restart finds its port free.
PORT_RANGE = (20_000, 30_000)
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 5.0
STABLE_SECONDS = 30.0

_log = logging.getLogger(__name__)
# Servers left running on purpose: a handle that is collected warns that its process still runs.
_left: list[subprocess.Popen[bytes]] = []


class EmbeddedPostgres:
    """A Postgres server of our own on one data folder."""

    def __init__(
        self,
        data_dir: Path,
        *,
        durable: bool = True,
        port: int | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = DataFolder(data_dir)
        self._profile = DURABLE if durable else FAST
        self._wanted_port = port
        self._extra = dict(extra or {})
        self._postmaster: Postmaster | None = None
        self._account: Account
        self._binaries: Binaries
        self._password = ""
        self._port = 0
        self._socket_folder: Path
        self._supervision: asyncio.Task[None] | None = None
        self._restarted = asyncio.Condition()
        self.adopted = False
        self.restart_count = 0

    async def __aenter__(self) -> Self:
        """Starts."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops."""
        await self.stop()

    @property
    def pid(self) -> int:
        """The server's process; another one after a restart."""
        if self._postmaster is None:
            message = "the embedded Postgres is not running"
            raise EmbeddedError(message)
        return self._postmaster.pid

    @property
    def port(self) -> int:
        """The TCP port on the loopback address; the same after a restart."""
        return self._port

    @property
    def url(self) -> str:
        """The address over the Unix socket; the same after a restart."""
        where = f"host={quote(str(self._socket_folder), safe='/')}&port={self._port}"
        return f"postgresql://{SUPERUSER}:{self._password}@/postgres?{where}"

    @property
    def tcp_url(self) -> str:
        """The address over TCP, for tools and for tests that stand between."""
        return f"postgresql://{SUPERUSER}:{self._password}@{LOOPBACK}:{self._port}/postgres"

    async def start(self) -> None:
        """Starts the server, or adopts the one that an earlier owner left; returns when it takes connections."""
        self._account = account_for(self._folder.cluster)
        self._folder.prepare(self._account)
        self._folder.acquire()
        try:
            self._password = self._folder.password()
            self.adopted = await self._adopt()
            if not self.adopted:
                await self._start_first()
        except BaseException:
            await self._abandon()
            raise
        self._supervision = asyncio.create_task(self._supervise(), name="embedded-postgres")

    async def stop(self, *, leave_running: bool = False) -> None:
        """Stops the server, or leaves it to the next owner of the folder. A second call does nothing."""
        if self._supervision is not None:
            self._supervision.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervision
            self._supervision = None
        if leave_running:
            self._postmaster = None
            self._folder.release()
        else:
            await self._abandon()

    async def wait_restarted(self, beyond: int = 0) -> None:
        """Waits until the server has been restarted more often than `beyond` (take `restart_count` before a kill)."""
        async with self._restarted:
            await self._restarted.wait_for(lambda: self.restart_count > beyond)

    async def _abandon(self) -> None:
        if self._postmaster is not None:
            await self._postmaster.stop()
            self._postmaster = None
            if self._socket_folder.parent != self._folder.root:
                with suppress(OSError):
                    self._socket_folder.rmdir()
        self._folder.release()

    async def _adopt(self) -> bool:
        postmaster = running_postmaster(self._folder.cluster)
        if postmaster is None:
            return False
        if not await postmaster.wait_ready(START_SECONDS):
            await postmaster.stop()
            return False
        record = read_record(self._folder.cluster)
        if record is None or not self._suits(record.port):
            await postmaster.stop()
            return False
        self._postmaster, self._port, self._socket_folder = postmaster, record.port, record.socket_folder
        return True

    def _suits(self, port: int) -> bool:
        fsync = self._settings()["fsync"]
        return self._wanted_port in {None, port} and was_started_with(self._folder.cluster, f"fsync={fsync}")

    async def _find_binaries(self) -> None:
        self._binaries = await asyncio.to_thread(
            provide, self._account, major=self._folder.major(), spare=self._folder.root
        )

    async def _start_first(self) -> None:
        await self._find_binaries()
        if self._folder.major() is None:
            await asyncio.to_thread(
                self._folder.create_cluster, self._binaries, self._account, durable=self._profile.durable
            )
        self._socket_folder = self._folder.socket_folder(self._account)
        for attempt in range(PORT_TRIES):
            self._port = self._wanted_port or _free_port()
            try:
                await self._launch()
            except _PortTakenError:
                if self._wanted_port or attempt == PORT_TRIES - 1:
                    raise
            else:
                return

    async def _launch(self) -> None:
        self._folder.rotate_log()
        with self._folder.log.open("ab") as log:
            position = log.tell()
            process = self._account.launch(self._command(), cwd=self._folder.cluster, output=log)
        _left.append(process)
        self._postmaster = Postmaster(process.pid, self._folder.cluster)
        if await self._postmaster.wait_ready(START_SECONDS):
            return
        await self._postmaster.stop()
        said = self._folder.log_since(position)
        kind = _PortTakenError if "could not create any TCP/IP sockets" in said else EmbeddedError
        message = f"Postgres did not start on {self._folder.root} (port {self._port}):\n{said}"
        raise kind(message)

    def _settings(self) -> dict[str, str]:
        return {**self._profile.settings, **self._extra}

    def _command(self) -> list[str]:
        settings = {
            **self._settings(),
            "listen_addresses": LOOPBACK,
            "port": str(self._port),
            "unix_socket_directories": str(self._socket_folder),
        }
        command = [self._binaries.path("postgres"), "-D", str(self._folder.cluster)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return command

    async def _supervise(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        clock = asyncio.get_running_loop().time
        while self._postmaster is not None:
            since = clock()
            await self._postmaster.wait_dead()
            if clock() - since > STABLE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            _log.warning("Postgres (pid %d) is gone; starting it again in %.2f s", self._postmaster.pid, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            try:
                await self._restart()
            except EmbeddedError:
                _log.exception("Postgres did not come back")

    async def _restart(self) -> None:
        if self.adopted:
            await self._find_binaries()
            self.adopted = False
        running_postmaster(self._folder.cluster)
        self._socket_folder.mkdir(mode=0o700, exist_ok=True)
        self._account.own(self._socket_folder)
        await self._launch()
        async with self._restarted:
            self.restart_count += 1
            self._restarted.notify_all()


class _PortTakenError(EmbeddedError):
    """Somebody else listens on the port."""


def _free_port() -> int:
    while True:
        port = random.randrange(*PORT_RANGE)
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        return port
