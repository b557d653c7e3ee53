"""The worker under test: a command that is started with the environment that docs/conformance.md describes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path

from stepwell.conformance.cases import Broken
from stepwell.conformance.service import clean

_READY_SECONDS = 60.0
_LEAVING_SECONDS = 20.0
_LAST_LINES = 12


class Program:
    """A process of the worker under test."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        """Keeps a process that was started; its standard error goes to `log`."""
        self.process = process
        self.log = log
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, command: Sequence[str], variables: dict[str, str], log: Path) -> Program:
        """Starts the command, and waits until it has printed `ready`. Raises `Broken`."""
        with log.open("ab") as errors:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, env=clean() | variables, stdout=asyncio.subprocess.PIPE, stderr=errors
                )
            except OSError as error:
                raise Broken("the command starts", f"{command[0]}: {error.strerror}", "") from None
        program = cls(process, log)
        try:
            await program._wait_ready()
        except BaseException:
            await program.kill()
            raise
        return program

    async def _wait_ready(self) -> None:
        output = self.process.stdout
        if output is None:
            raise AssertionError("its output is a pipe")
        expected = "the worker prints the line `ready` once it is connected"
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while line := await output.readline():
                    if line.strip() == b"ready":
                        self._reading = asyncio.create_task(_pass_over(output))
                        return
        except TimeoutError:
            raise Broken(expected, f"nothing of the kind in {_READY_SECONDS:.0f} s: {self.last_words()}", "") from None
        await self.process.wait()
        raise Broken(expected, f"it ended with {self.process.returncode}: {self.last_words()}", "")

    def last_words(self) -> str:
        """Gives the end of what it logged."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LAST_LINES:]) or "(it logged nothing)"

    @property
    def has_ended(self) -> bool:
        """Whether the process is over."""
        return self.process.returncode is not None

    def terminate(self) -> None:
        """Tells it to leave, as an operator would."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    async def ended(self, seconds: float = _LEAVING_SECONDS) -> int:
        """Waits for its end, and gives its exit code. Raises `TimeoutError`."""
        return await asyncio.wait_for(self.process.wait(), seconds)

    async def kill(self) -> None:
        """Ends it as a power cut would."""
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


async def _pass_over(output: asyncio.StreamReader) -> None:
    """What it prints besides must not fill the pipe."""
    while await output.read(65_536):
        pass
