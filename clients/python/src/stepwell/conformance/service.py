"""The service that a kit starts: two replicas on one Postgres, in a temporary folder, with short terms."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from stepwell._servers import free_port, make_folder, server_program
from stepwell.client import Client
from stepwell.errors import StepwellError

SESSION_SECONDS = 8.0
HEARTBEAT_SECONDS = 1.0
ACK_SECONDS = 4.0
_TERMS = {
    "SESSION_SECONDS": str(SESSION_SECONDS),
    "HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
    "ACK_SECONDS": str(ACK_SECONDS),
    "EXPIRY_POLL_SECONDS": "0.3",
    "TIMEOUT_POLL_SECONDS": "0.2",
    "REQUIRE_KEYS": "false",
    "LOG_LEVEL": "warning",
    "LOG_FORMAT": "console",
}
_STARTING_SECONDS = 60.0
_LEAVING_SECONDS = 10.0


class Service:
    """Two replicas. `addresses` are there once it is entered. Raises `RuntimeError` if they do not start in 60 s."""

    def __init__(self) -> None:
        """Prepares it; entering starts it."""
        self.folder = Path()
        self.addresses: list[str] = []
        self._replicas: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        """Starts the one with the database, then the other."""
        self.folder = await asyncio.to_thread(make_folder, "stepwell-kit-")
        try:
            await self._start("dev", "--data-dir", str(self.folder / "data"))
            await self._start("serve", STEPWELL_DATABASE_URL=self._database_url())
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends both, and forgets their data."""
        await self._end()

    async def _start(self, *command: str, **variables: str) -> None:
        address = f"127.0.0.1:{free_port()}"
        port = address.rpartition(":")[2]
        terms = {f"STEPWELL_{name}": value for name, value in _TERMS.items()}
        with (self.folder / f"server-{port}.log").open("wb") as log:
            replica = await asyncio.create_subprocess_exec(
                server_program(), *command, "--port", port, env=clean() | terms | variables, stdout=log, stderr=log
            )
        self._replicas.append(replica)
        deadline = asyncio.get_running_loop().time() + _STARTING_SECONDS
        while replica.returncode is None and asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(StepwellError, TimeoutError, OSError):
                async with await Client.connect(address, connect_timeout=1.0, call_timeout=1.0) as client:
                    assert [each async for each in client.list_namespaces()]  # noqa: S101 - `main` always exists
                self.addresses.append(address)
                return
            await asyncio.sleep(0.05)
        said = (self.folder / f"server-{port}.log").read_text(errors="replace")[-2_000:]
        raise RuntimeError(f"stepwell-server did not start: try `stepwell-server dev` by hand\n{said}")

    def _database_url(self) -> str:
        """The address of the first replica's Postgres, by what lies in its folder."""
        data = self.folder / "data"
        port = (data / "pgdata/postmaster.pid").read_text().splitlines()[3]
        return f"postgresql://postgres:{(data / 'password').read_text().strip()}@127.0.0.1:{port}/postgres"

    async def _end(self) -> None:
        for replica in reversed(self._replicas):
            if replica.returncode is None:
                replica.terminate()
                try:
                    await asyncio.wait_for(replica.wait(), _LEAVING_SECONDS)
                except TimeoutError:
                    replica.kill()
                    await replica.wait()
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)


def clean() -> dict[str, str]:
    """Gives this process's environment without what concerns another service."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("STEPWELL_", "OTEL_"))}
