"""The real program in a process of its own, and what it says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

Line = dict[str, Any]
# Said of a variable that shall not be there.
UNSET = "unset"


class Program:
    """A running `stepwell-server`. `lines` are those of its log that were read so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[Line] = []
        self.printed = ""

    async def say(self, event: str, seconds: float = 60.0, **fields: Any) -> Line:
        """The next line of the log that tells of this."""
        assert self.process.stderr is not None
        async with asyncio.timeout(seconds):
            while raw := await self.process.stderr.readline():
                line: Line
                try:
                    line = json.loads(raw)
                except ValueError:
                    line = {"event": raw.decode().strip()}
                self.lines.append(line)
                if line["event"] == event and all(line.get(name) == value for name, value in fields.items()):
                    return line
        raise AssertionError(f"it never said {event!r}: {self.lines[-5:]}")

    async def end(self, seconds: float = 60.0) -> int:
        """Its exit code, once it has ended; the rest of what it said is in `printed`."""
        async with asyncio.timeout(seconds):
            output, told = await self.process.communicate()
        self.printed = output.decode() + told.decode()
        assert self.process.returncode is not None
        return self.process.returncode

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@asynccontextmanager
async def program(*arguments: str, **variables: str) -> AsyncIterator[Program]:
    """Starts it with these STEPWELL_* variables, and none of ours; nobody needs a key unless they say so."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STEPWELL_", "OTEL_"))}
    variables = {"REQUIRE_KEYS": "false", **variables}
    environment |= {f"STEPWELL_{name}": value for name, value in variables.items() if value != UNSET}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "stepwell_server.main",
        *arguments,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    started = Program(process)
    try:
        yield started
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            await process.communicate()


async def outcome(*arguments: str, **variables: str) -> tuple[int, str]:
    """Runs it to its end; answers the exit code and all that it printed."""
    async with program(*arguments, **variables) as started:
        code = await started.end()
        return code, started.printed
