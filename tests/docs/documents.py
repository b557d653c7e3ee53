"""Documents as programs: fenced blocks whose second word says what to do with them.

| block | what is done with it |
|---|---|
| `sh run`, `python run` | runs it; it must succeed |
| `sh fails` | runs it; it must fail |
| `sh open` | starts a program that stays, and is spoken with: `grpcurl -d @` |
| `json send` | writes a line to that program |
| `json receive` | reads from that program until all that the block shows has come |
| `text close` | ends that program's input; it must succeed |
| `sh cluster` | nothing: it takes a cluster. A test counts them |
| `json answer`, `text answer` | what the last program printed must hold all that the block shows |

`<word>` in an answer stands for a value that differs each time, and for that same value in what follows.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SECONDS = 60.0
ADDRESS = "127.0.0.1:7233"
CLUSTER = "cluster"
_FENCE = re.compile(r"^```(\w+) (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"<([a-z_]+)>")
# What a stream says whether or not anybody asked.
_SIGNS_OF_LIFE = {"ping", "pong", "sessionExpireTime"}


class Block(NamedTuple):
    """A block of a document."""

    language: str
    duty: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    """A document's blocks that have a duty."""
    text = path.read_text()
    return [
        Block(found[1], found[2], found[3], text[: found.start()].count("\n") + 2) for found in _FENCE.finditer(text)
    ]


class Conversation:
    """A program that is written to and read from, one JSON value at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._text = ""
        self._came: dict[str, list[Any]] = {}

    def send(self, message: Any) -> None:
        """Writes one message."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    async def receive(self, expected: Mapping[str, Any]) -> dict[str, Any]:
        """What has come of each field that is expected, as many items as are. Messages may be cut as they like."""
        async with asyncio.timeout(SECONDS):
            while not all(len(self._came.get(key, [])) >= _count(wanted) for key, wanted in expected.items()):
                for key, value in (await self._read()).items():
                    if key not in _SIGNS_OF_LIFE:
                        self._came.setdefault(key, []).extend(value if isinstance(value, list) else [value])
        taken: dict[str, Any] = {}
        for key, wanted in expected.items():
            count, came = _count(wanted), self._came[key]
            taken[key] = came[:count] if isinstance(wanted, list) else came[0]
            del came[:count]
        return taken

    async def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while True:
            self._text = self._text.lstrip()
            try:
                value, end = json.JSONDecoder().raw_decode(self._text)
            except ValueError:
                chunk = await self.process.stdout.read(65_536)
                assert chunk, f"the program ended: {self._text}"
                self._text += chunk.decode()
                continue
            self._text = self._text[end:]
            assert isinstance(value, dict)
            return value

    async def close(self) -> None:
        """Ends the input, and waits for the program's own end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(SECONDS):
            assert await self.process.wait() == 0


def _count(wanted: Any) -> int:
    return len(wanted) if isinstance(wanted, list) else 1


class Document:
    """One document while it is carried out. `replaced` are texts that stand for something else here."""

    def __init__(self, path: Path, folder: Path, replaced: Mapping[str, str], programs: list[Path]) -> None:
        self.path = path
        self._folder = folder
        self._replaced = replaced
        self._environment = {
            **os.environ,
            "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
            "STEPWELL_ADDRESS": replaced.get(ADDRESS, ADDRESS),
            "COLUMNS": "200",
        }
        self._names: dict[str, str] = {}
        self._said = ""
        self._conversation: Conversation | None = None

    async def carry_out(self) -> int:
        """Does what each block says, in their order; answers how many there were, those for a cluster left out."""
        found = [block for block in blocks(self.path) if block.duty != CLUSTER]
        try:
            for block in found:
                try:
                    await self._do(block)
                except (AssertionError, TimeoutError) as error:
                    raise AssertionError(f"{self.path.name}, line {block.line}: {error!r}") from error
        finally:
            if self._conversation is not None and self._conversation.process.returncode is None:
                self._conversation.process.kill()
                await self._conversation.process.wait()
        return len(found)

    async def _do(self, block: Block) -> None:
        if block.duty in {"run", "fails"}:
            self._said = await self._run(block)
        elif block.duty == "answer":
            self._compare(block)
        elif block.duty == "open":
            self._conversation = Conversation(await self._start(*shlex.split(self._filled(block.text))))
        else:
            await self._talk(block)

    async def _talk(self, block: Block) -> None:
        conversation = self._conversation
        assert conversation is not None
        if block.duty == "send":
            conversation.send(json.loads(self._filled(block.text)))
        elif block.duty == "receive":
            expected = json.loads(block.text)
            match(expected, await conversation.receive(expected), self._names)
        elif block.duty == "close":
            await conversation.close()
        else:
            raise AssertionError(f"nobody knows what to do with `{block.language} {block.duty}`")

    async def _run(self, block: Block) -> str:
        text = self._filled(block.text)
        if block.language == "python":
            process = await self._start(sys.executable, "-c", text)
        else:
            process = await self._start("sh", "-euc", text)
        async with asyncio.timeout(SECONDS):
            said, _ = await process.communicate()
        assert (process.returncode == 0) is (block.duty == "run"), said.decode()
        return said.decode()

    async def _start(self, *command: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=pipe,
            stdout=pipe,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self._folder,
            env=self._environment,
        )

    def _filled(self, text: str) -> str:
        for name, value in self._names.items():
            text = text.replace(f"<{name}>", value)
        for shown, real in self._replaced.items():
            text = text.replace(shown, real)
        return text

    def _compare(self, block: Block) -> None:
        if block.language == "json":
            match(json.loads(block.text), json.loads(self._said), self._names)
            return
        lines = iter(self._said.splitlines())
        for expected in block.text.splitlines():
            assert any(_is_line(expected, line, self._names) for line in lines), f"{expected!r} in {self._said}"


def _is_line(expected: str, actual: str, names: dict[str, str]) -> bool:
    """Lines are alike but for spaces; what a word stands for in one holds for that line alone."""
    try:
        match(" ".join(expected.split()), " ".join(actual.split()), dict(names))
    except AssertionError:
        return False
    return True


def match(expected: Any, actual: Any, names: dict[str, str], where: str = "") -> None:
    """Holds what is against what a document shows. What it leaves out may be there; lists must be as long."""
    if isinstance(expected, dict):
        assert isinstance(actual, dict), f"{where}: {actual!r}"
        for key, value in expected.items():
            assert key in actual, f"{where}.{key} is not in {actual!r}"
            match(value, actual[key], names, f"{where}.{key}")
    elif isinstance(expected, list):
        assert isinstance(actual, list), f"{where}: {actual!r}"
        assert len(actual) == len(expected), f"{where}: {actual!r}"
        for place, (wanted, got) in enumerate(zip(expected, actual, strict=True)):
            match(wanted, got, names, f"{where}[{place}]")
    elif isinstance(expected, str) and _NAME.search(expected):
        assert isinstance(actual, str), f"{where}: {actual!r}"
        _match_text(expected, actual, names, where)
    else:
        assert actual == expected, f"{where}: {actual!r} is not {expected!r}"


def _match_text(expected: str, actual: str, names: dict[str, str], where: str) -> None:
    parts = _NAME.split(expected)
    pattern = "".join(
        re.escape(part) if place % 2 == 0 else f"(?P<{part}>{re.escape(names[part]) if part in names else '.+'})"
        for place, part in enumerate(parts)
    )
    found = re.fullmatch(pattern, actual)
    assert found is not None, f"{where}: {actual!r} is not {expected!r}"
    names.update(found.groupdict())
