"""Servers and clients of an earlier day, taken out of this repository's history and run beside today's."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.chaos.kit import TERMS, Process, Stage
from tests.replicas.kit import PATIENT, ROOT, serving


class Build(NamedTuple):
    """A tree of sources, and how many migrations are in it."""

    path: Path
    number: int

    @property
    def variables(self) -> dict[str, str]:
        """What has Python take the sources from there; the tests' own are always today's."""
        paths = (self.path / "service", self.path / "clients/python/src", ROOT)
        return {"PYTHONPATH": os.pathsep.join(map(str, paths))}


def number_of(path: Path) -> int:
    return len(list((path / "service/stepwell_server/store/migrations").glob("*.sql")))


TODAYS = Build(ROOT, number_of(ROOT))


def older(commit: str, folder: Path) -> Build:
    """The build of a commit; skips where history is not at hand."""
    if _git("rev-parse", "--is-shallow-repository") != b"false\n":
        pytest.skip("an older build needs the repository's whole history: `git fetch --unshallow`")
    packed = _git("archive", commit, "service", "clients/python/src")
    assert packed is not None, f"{commit} is not in history: pin another commit"
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return Build(folder, number_of(folder))


def _git(*arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, check=False, capture_output=True)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


async def server(scene: Stage, build: Build, port: int, *, is_ready: bool = True, **terms: str) -> Process:
    """A replica of that build."""
    settings = TERMS | PATIENT | {"DATABASE_URL": scene.database_url} | terms
    variables = build.variables | {f"STEPWELL_{name}": value for name, value in settings.items()}
    command = ("-m", "stepwell_server.main", "serve", "--port", str(port))
    started = await Process.start(scene.folder / f"server-{port}.log", *command, **variables)
    scene.processes.append(started)
    if is_ready:
        await serving(port)
    return started


async def command(scene: Stage, build: Build, name: str) -> dict[str, Any]:
    """What a command of that build's server prints: `migrate` or `check`."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("STEPWELL_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "stepwell_server.main", name, "--output", "json"),
        env=environment | build.variables | {"STEPWELL_DATABASE_URL": scene.database_url},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    found: dict[str, Any] = json.loads(output)
    return found | {"exit": process.returncode}
