"""The running server seen from outside: its pid file, whether it lives, how it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.05
FAST_STOP_SECONDS = 20.0
IMMEDIATE_STOP_SECONDS = 5.0
_FILE = "postmaster.pid"
_FULL_LINES = 8


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A server process of one cluster, whether started here or by an owner that is gone."""

    pid: int
    cluster: Path

    def is_alive(self) -> bool:
        """Whether the process exists, is no zombie, and serves this cluster (a pid may have been given away again).

        A child of ours lives until we have heard of its end: one that is on its way out has no folder any more, but
        its pid, and Postgres would refuse to start beside that.
        """
        is_unheard = False
        with suppress(ChildProcessError):
            is_unheard = os.waitpid(self.pid, os.WNOHANG)[0] == 0
        if sys.platform == "linux":
            try:
                return Path(f"/proc/{self.pid}/cwd").samefile(self.cluster)
            except OSError:
                return is_unheard
        listing = subprocess.run(
            ["/bin/ps", "-ww", "-o", "stat=,command=", "-p", str(self.pid)], capture_output=True, text=True, check=False
        ).stdout.strip()
        return not listing.startswith("Z") and str(self.cluster) in listing

    def is_ready(self) -> bool:
        """Whether this very process says that it takes connections."""
        record = read_record(self.cluster)
        return record is not None and record.pid == self.pid and record.status == "ready"

    async def wait_ready(self, seconds: float) -> bool:
        """Waits until it takes connections; False if it ended or the time is over."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self.is_alive() and asyncio.get_running_loop().time() < deadline:
            if self.is_ready():
                return True
            await asyncio.sleep(POLL_SECONDS / 5)
        return False

    async def wait_dead(self, seconds: float | None = None) -> bool:
        """Waits until it has ended; False if the time is over."""
        deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        while self.is_alive():
            if deadline is not None and asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True

    async def stop(self) -> None:
        """Stops it: at once but cleanly, then without a checkpoint, then by force."""
        for number, patience in (
            (signal.SIGINT, FAST_STOP_SECONDS),
            (signal.SIGQUIT, IMMEDIATE_STOP_SECONDS),
            (signal.SIGKILL, IMMEDIATE_STOP_SECONDS),
        ):
            if not self.is_alive():
                return
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
            if await self.wait_dead(patience):
                return


@dataclass(frozen=True, slots=True)
class Record:
    """What a server wrote into its pid file."""

    pid: int
    port: int
    socket_folder: Path
    status: str


def read_record(cluster: Path) -> Record | None:
    """Reads the pid file; None if there is none, or if it is only half written."""
    try:
        lines = [line.strip() for line in (cluster / _FILE).read_text().splitlines()]
    except FileNotFoundError:
        return None
    if len(lines) < _FULL_LINES:
        return None
    return Record(int(lines[0]), int(lines[3]), Path(lines[4]), lines[7])


def running_postmaster(cluster: Path) -> Postmaster | None:
    """Answers the server that the pid file names if it still runs, and removes a pid file that names a stranger.

    Postgres believes any living process of the same user in that file to be itself and would refuse to start, which
    happens whenever a container's small pids come round again.
    """
    try:
        pid = int((cluster / _FILE).read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None
    postmaster = Postmaster(pid, cluster)
    if postmaster.is_alive():
        return postmaster
    (cluster / _FILE).unlink(missing_ok=True)
    return None


def was_started_with(cluster: Path, setting: str) -> bool:
    """Whether the command line of the latest start held this setting."""
    try:
        return f'"{setting}"' in (cluster / "postmaster.opts").read_text()
    except FileNotFoundError:
        return False
