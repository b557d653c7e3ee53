"""Postgres's own programs: a dump of one database, and its restoration into another."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from stepwell_server.embedded.binaries import WHEEL

SECONDS = 120.0


async def folder_for(url: str) -> Path:
    """Where `pg_dump`, `pg_restore` and `psql` are that suit the server: a dump needs one that is not older."""
    connection = await asyncpg.connect(url)
    try:
        major = int(await connection.fetchval("SHOW server_version_num")) // 10_000
    finally:
        await connection.close()
    for folder in _folders():
        if await asyncio.to_thread(_major, folder / "pg_dump") >= major and (folder / "pg_restore").exists():
            return folder
    if os.environ.get("CI"):
        pytest.fail(f"pg_dump {major} or newer is missing")
    pytest.skip(f"pg_dump {major} or newer is missing")


async def run(program: Path, *arguments: str) -> str:
    """Runs one of them; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(SECONDS):
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def dump(url: str, file: Path) -> None:
    """A consistent copy of a database in a file, beside all who work in it."""
    await run(await folder_for(url) / "pg_dump", "--format=custom", f"--file={file}", f"--dbname={url}")


async def restore(file: Path, url: str) -> None:
    """Fills an empty database with what was dumped."""
    programs = await folder_for(url)
    await run(programs / "pg_restore", "--exit-on-error", "--no-owner", f"--dbname={url}", str(file))


def _folders() -> Iterator[Path]:
    spec = importlib.util.find_spec(WHEEL)
    for root in (spec.submodule_search_locations or []) if spec else []:
        yield from sorted(Path(root).glob("pginstall*/bin"), reverse=True)
    found = shutil.which("pg_dump")
    if found:
        yield Path(found).parent


def _major(program: Path) -> int:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return 0
    found = re.search(r"\) (\d+)", said)
    return int(found[1]) if found else 0
