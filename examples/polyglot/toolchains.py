"""What must be here besides Python, and how the parts in Go and TypeScript are built: not where their sources are."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILT = ROOT / ".cache" / "polyglot"
# The command that tells a version, the oldest that will do, and what to install.
NEEDED = {
    "go": (("go", "version"), (1, 24), "Go 1.24 or later"),
    "node": (("node", "--version"), (20,), "Node.js 20 or later"),
    "npm": (("npm", "--version"), (0,), "npm, which comes with Node.js"),
}
# The client in TypeScript is built too, from its sources; the example depends on its folder.
PROJECTS = (Path("clients/typescript"), Path("examples/polyglot/typescript"))
LEFT_OUT = ("node_modules", "dist")


class BuildError(Exception):
    """A part could not be built; the text is what its tools said."""


def missing() -> list[str]:
    """Tells what is to be installed first, for people; empty if nothing."""
    return [
        f"{name} is not here, or too old: install {what}"
        for name, (command, oldest, what) in NEEDED.items()
        if _version(command) < oldest
    ]


def _version(command: tuple[str, ...]) -> tuple[int, ...]:
    if shutil.which(command[0]) is None:
        return (-1,)
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    found = re.search(r"\d+(\.\d+)*", said)
    return tuple(map(int, found[0].split("."))) if found else (-1,)


async def build_go() -> tuple[str, ...]:
    """Builds the worker in Go, and gives the command that starts it."""
    program = BUILT / "go" / "polyglot"
    await _run(HERE / "go", "go", "build", "-o", str(program), ".")
    return (str(program),)


async def build_typescript() -> tuple[str, ...]:
    """Builds the worker in TypeScript, and the client that it uses, unless both are as last time; gives the command."""
    stamp = BUILT / "typescript"
    wanted = _hash_of_sources()
    if not stamp.is_file() or stamp.read_text() != wanted:
        stamp.unlink(missing_ok=True)
        for project in PROJECTS:
            _copy(project)
            await _run(BUILT / project, "npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
            await _run(BUILT / project, "npm", "run", "build")
        stamp.write_text(wanted)
    return ("node", str(BUILT / PROJECTS[-1] / "dist" / "worker.js"))


def _sources(project: Path) -> list[Path]:
    """The files of a project that it is built from, relative to it."""
    folder = ROOT / project
    every = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in every if path.parts[0] not in LEFT_OUT)


def _hash_of_sources() -> str:
    found = hashlib.sha256()
    for project in PROJECTS:
        for path in _sources(project):
            found.update(f"{project / path}\n".encode())
            found.update(hashlib.sha256((ROOT / project / path).read_bytes()).digest())
    return found.hexdigest()


def _copy(project: Path) -> None:
    shutil.rmtree(BUILT / project, ignore_errors=True)
    for path in _sources(project):
        copy = BUILT / project / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / project / path, copy)


async def _run(folder: Path, *command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise BuildError(f"{' '.join(command)}:\n{said.decode(errors='replace')[-4_000:]}")
