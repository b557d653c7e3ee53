"""The ground that all stand on: one durable Postgres, its baseline, and what it tells."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from bench.meters import Wal, family_seconds, read_wal
from bench.processes import Process
from stepwell_server.embedded import EmbeddedPostgres, create_database

# Beside these: fsync, synchronous_commit and full_page_writes on, as they are by default.
SETTINGS = {
    "shared_buffers": "2GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "autovacuum": "on",
}
_SCALE = 20
_BASELINE = ("-N", "-M", "prepared", "-c", "8", "-j", "2")
_PREPARE_SECONDS, _SLACK_SECONDS = 120.0, 60.0


class Ground:
    """A running Postgres and the folder for what processes write."""

    def __init__(self, postgres: EmbeddedPostgres, folder: Path) -> None:
        self.postgres = postgres
        self.folder = folder
        self._binaries = Path(f"/proc/{postgres.pid}/exe").readlink().parent
        self._base_url = ""
        self._made = 0

    @property
    def url(self) -> str:
        """The server over loopback TCP: the baseline, the service and the peers all reach it so."""
        return self.postgres.tcp_url

    async def new_database(self, name: str) -> str:
        """Makes an empty database, and answers its URL."""
        self._made += 1
        return await create_database(self.url, f"{name}_{self._made}")

    async def drop_database(self, url: str) -> None:
        """Drops it, and whoever is connected to it."""
        await self.execute(f'DROP DATABASE "{urlsplit(url).path[1:]}" WITH (FORCE)')

    async def execute(self, *statements: str, url: str = "") -> None:
        """Runs statements, each in a transaction of its own."""
        connection = await asyncpg.connect(url or self.url, statement_cache_size=0)
        try:
            for statement in statements:
                await connection.execute(statement, timeout=600)
        finally:
            await connection.close()

    async def baseline(self, seconds: float) -> float:
        """B: transactions a second of pgbench."""
        if not self._base_url:
            self._base_url = await self.new_database("baseline")
            await self._program("pgbench", "-i", "-q", "-s", str(_SCALE), self._base_url, seconds=_PREPARE_SECONDS)
        timing = ("-T", f"{max(1, round(seconds))}")
        printed = await self._program("pgbench", *_BASELINE, *timing, self._base_url, seconds=seconds + _SLACK_SECONDS)
        return next(float(line.split()[2]) for line in printed.splitlines() if line.startswith("tps = "))

    async def version(self) -> str:
        """Of Postgres."""
        connection = await asyncpg.connect(self.url, statement_cache_size=0)
        try:
            return str(await connection.fetchval("SHOW server_version")).split()[0]
        finally:
            await connection.close()

    async def position(self) -> str:
        """Where the WAL ends."""
        connection = await asyncpg.connect(self.url, statement_cache_size=0)
        try:
            return str(await connection.fetchval("SELECT pg_current_wal_insert_lsn()::text"))
        finally:
            await connection.close()

    async def wal(self, since: str, until: str) -> Wal:
        """What was written between two positions."""
        # What ends in memory can't be read: a later record takes all before it to the disk.
        await self.execute("SELECT pg_switch_wal()")
        folder = str(self.folder / "data/pgdata/pg_wal")
        stats = await self._program("pg_waldump", "-p", folder, "-s", since, "-e", until, "--stats=record", seconds=120)
        return read_wal(stats)

    def cpu_seconds(self) -> float:
        """Processor time of Postgres with all its processes."""
        return family_seconds(self.postgres.pid)

    async def _program(self, name: str, *arguments: str, seconds: float) -> str:
        command = [str(self._binaries / name), *arguments]
        process = await Process.start(name, command, self.folder / f"{name}.log", {})
        try:
            return await process.output(seconds)
        finally:
            await process.stop()


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="stepwell-bench-", dir=os.environ.get("BENCH_DIR")))
    # An unprivileged Postgres must be able to pass, when this is run as root.
    folder.chmod(0o711)
    return folder


@asynccontextmanager
async def standing_ground(*, is_durable: bool = True) -> AsyncIterator[Ground]:
    """Starts Postgres in a folder of its own, and leaves nothing behind."""
    folder = _new_folder()
    try:
        extra = SETTINGS if is_durable else {"shared_buffers": "64MB"}
        async with EmbeddedPostgres(folder / "data", durable=is_durable, extra=extra) as postgres:
            yield Ground(postgres, folder)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
