"""Processes beside this one, which end with it: their standard input is ours, and its end is theirs."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

_LEAVE_SECONDS, _END_SECONDS = 10.0, 5.0
# A line tells what was measured, and may be long.
_LINE_BYTES = 4 * 1024 * 1024


class ProcessError(RuntimeError):
    """A process ended, or was silent, before it had done its work; says where its last words are."""


class Process:
    """One of them. What it writes to standard error goes to a file."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    @classmethod
    async def start(cls, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Self:
        """Starts it in a session of its own, so that a Ctrl-C reaches only us, who end it in order."""
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment},
                start_new_session=True,
                limit=_LINE_BYTES,
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    async def send(self, command: Mapping[str, Any]) -> None:
        """Tells it what to do."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()

    async def hear(self, event: str, seconds: float) -> dict[str, Any]:
        """Waits for what it has to tell. Raises `ProcessError` for its end, its silence, and for another event."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise ProcessError(f"{self.name} was silent for {seconds:.0f} s, awaited: {event}{self._words()}") from None
        if not line:
            raise ProcessError(f"{self.name} ended, awaited: {event}{self._words()}")
        told: dict[str, Any] = json.loads(line)
        if told["event"] != event:
            raise ProcessError(f"{self.name} told {told}, awaited: {event}")
        return told

    async def output(self, seconds: float) -> str:
        """All that it writes until it ends. Raises `ProcessError` if it takes longer, or does not end well."""
        try:
            async with asyncio.timeout(seconds):
                written, _ = await self._process.communicate()
        except TimeoutError:
            raise ProcessError(f"{self.name} took longer than {seconds:.0f} s{self._words()}") from None
        if self._process.returncode:
            raise ProcessError(f"{self.name} failed{self._words()}")
        return written.decode()

    async def stop(self) -> None:
        """Ends it: by the end of its input, then by SIGTERM, then by SIGKILL."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if await self._has_ended(_LEAVE_SECONDS):
            return
        with suppress(ProcessLookupError):
            self._process.terminate()
        if await self._has_ended(_END_SECONDS):
            return
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def _has_ended(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    def _words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-5:]
        return "".join(f"\n  {line}" for line in [f"({self._log})", *lines])
