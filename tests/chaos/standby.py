"""Postgres servers that are killed, held down and promoted: a primary, and a standby that follows its stream."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from tests.chaos.kit import free_port, until

from stepwell_server.embedded.account import Account, account_for
from stepwell_server.embedded.binaries import Binaries, provide
from stepwell_server.embedded.folder import DataFolder
from stepwell_server.embedded.postmaster import Postmaster, running_postmaster

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "max_locks_per_transaction": "256",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "jit": "off",
    "timezone": "UTC",
}
START_SECONDS = 60.0


class Server:
    """A Postgres server that stays as it is left: nobody starts it again."""

    def __init__(self, root: Path, account: Account, binaries: Binaries) -> None:
        self.folder = DataFolder(root)
        self.account = account
        self.binaries = binaries
        self.port = free_port()
        self._postmaster: Postmaster | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def login(self) -> str:
        return f"postgres:{self.folder.password()}"

    def url(self, database: str) -> str:
        return f"postgresql://{self.login}@{self.host}/{database}"

    def make_room(self, password: str) -> None:
        """A folder for a copy of a cluster with this password."""
        self.folder.prepare(self.account)
        (self.folder.root / "password").write_text(password)
        self.folder.cluster.mkdir(mode=0o700)
        self.account.own(self.folder.cluster)

    async def start(self, **settings: str) -> None:
        """Starts it, and waits until it takes connections."""
        self._postmaster = self._launch(settings)
        assert await self._postmaster.wait_ready(START_SECONDS), f"it did not start: {self.folder.log}"

    def _launch(self, settings: dict[str, str]) -> Postmaster:
        running_postmaster(self.folder.cluster)
        command = [self.binaries.path("postgres"), "-D", str(self.folder.cluster), "-p", str(self.port)]
        sockets = {"unix_socket_directories": str(self.folder.socket_folder(self.account))}
        for name, value in {**SETTINGS, **sockets, **settings}.items():
            command += ["-c", f"{name}={value}"]
        with self.folder.log.open("ab") as log:
            process = self.account.launch(command, cwd=self.folder.cluster, output=log)
        return Postmaster(process.pid, self.folder.cluster)

    async def kill(self) -> None:
        """With all its backends at once, as a power cut would."""
        assert self._postmaster is not None
        for pid in (self._postmaster.pid, *children_of(self._postmaster.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self._postmaster.wait_dead()

    async def stop(self) -> None:
        """In order, if it runs."""
        if self._postmaster is not None:
            await self._postmaster.stop()


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            found += [int(entry.parent.name)] if parent == pid else []
    return found


@asynccontextmanager
async def server(root: Path, **settings: str) -> AsyncIterator[Server]:
    """A new server with a database `chaos`."""
    account = account_for(root / "pgdata")
    binaries = await asyncio.to_thread(provide, account, major=None, spare=root.parent)
    made = Server(root, account, binaries)
    made.folder.prepare(account)
    await asyncio.to_thread(made.folder.create_cluster, binaries, account, durable=True)
    try:
        await made.start(**settings)
        async with looking(made.url("postgres")) as look:
            await look.execute("CREATE DATABASE chaos")
        yield made
    finally:
        await made.stop()


@asynccontextmanager
async def standby_of(primary: Server, root: Path, port: int | None = None) -> AsyncIterator[Server]:
    """A copy that follows the primary, through another port of this machine if one is given."""
    made = Server(root, primary.account, primary.binaries)
    await asyncio.to_thread(made.make_room, primary.folder.password())
    source = f"postgresql://{primary.login}@127.0.0.1:{port or primary.port}/postgres"
    backup = [made.binaries.path("pg_basebackup"), "-D", str(made.folder.cluster), "-d", source, "-R", "-c", "fast"]
    answer = await asyncio.to_thread(made.account.run, backup)
    assert answer.returncode == 0, answer.stderr
    try:
        await made.start(hot_standby="on")
        yield made
    finally:
        await made.stop()


async def make_synchronous(primary: Server) -> None:
    """From here on a commit is answered when the standby has it."""
    async with looking(primary.url("postgres")) as look:
        await look.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await look.execute("SELECT pg_reload_conf()")
        await until(lambda: look.fetchval("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"))


async def promote(standby: Server) -> None:
    """Makes it the primary; answers when it is."""
    async with looking(standby.url("postgres")) as look:
        assert await look.fetchval("SELECT pg_promote(wait => true, wait_seconds => 60)")


@asynccontextmanager
async def looking(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()
