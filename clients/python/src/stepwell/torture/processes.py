"""Processes of our own: each leads a group, so that what a command starts is hurt, and ended, with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

_OURS = ("STEPWELL_", "OTEL_")


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Gives our own variables, without what it was told of Stepwell, and with these."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)} | dict(variables)


class Process:
    """A command, and all that it starts. What it prints goes into a log."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        """Use `start`."""
        self._process = process
        self.log = log
        self.said = asyncio.Event()
        """Set once it has printed the line `ready`."""
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, command: Sequence[str], variables: Mapping[str, str], log: Path) -> Process:
        """Starts it. Raises `OSError`."""
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=environment(variables),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=out,
                start_new_session=True,
            )
        return cls(process, log)

    @property
    def pid(self) -> int:
        """Its id, and its group's."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """How it ended; `None` while it lives."""
        return self._process.returncode

    async def _read(self) -> None:
        out = self._process.stdout
        if out is None:
            return
        with self.log.open("ab", buffering=0) as log, contextlib.suppress(ValueError):
            while line := await out.readline():
                log.write(line)
                if line.strip() == b"ready":
                    self.said.set()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    async def wait(self) -> int:
        """Waits for its end."""
        return await self._process.wait()

    async def leaves(self, seconds: float) -> bool:
        """Tells it to leave in order; False if it had to be killed, or left with an error."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(seconds):
                return await self.wait() == 0
        except TimeoutError:
            await self.kill()
            return False

    async def kill(self) -> None:
        """As a power cut would: also what it left behind in its group."""
        self.send(signal.SIGKILL)
        await self.wait()
        self.send(signal.SIGKILL)

    async def end(self, seconds: float = 8.0) -> None:
        """Ends it however it stands."""
        if self.code is None:
            self.send(signal.SIGCONT)
            await self.leaves(seconds)
        self.send(signal.SIGKILL)
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
