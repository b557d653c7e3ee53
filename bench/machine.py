"""The machine's shape: what a reader must know to read a figure."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.figures import median

_PACKAGES = ("grpcio", "protobuf", "asyncpg", "uvloop", "msgspec")
_SYNCS = 200
_CALLS, _ROUNDS = 1_000_000, 5


def shape(folder: Path, postgres_version: str) -> dict[str, Any]:
    """Describes it; `folder` is where Postgres keeps its data."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "filesystem": _filesystem(folder),
        "fdatasync_ms": round(_sync_milliseconds(folder), 3),
        "python": platform.python_version(),
        "million_calls_ms": round(_million_calls_milliseconds()),
        "postgres": postgres_version,
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def commit() -> str:
    """What was measured: the commit, and whether files differ from it; empty without git."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _filesystem(folder: Path) -> str:
    """The type of what is mounted nearest above."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(len(at), kind) for at, kind in mounts if folder.resolve().is_relative_to(at)]
    return max(above)[1] if above else "unknown"


def _sync_milliseconds(folder: Path) -> float:
    """How long the disk takes for one fdatasync of a page; the median."""
    path, took = folder / "sync", []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for _ in range(_SYNCS):
            os.pwrite(descriptor, bytes(8_192), 0)
            began = time.perf_counter()
            os.fdatasync(descriptor)
            took.append((time.perf_counter() - began) * 1e3)
    finally:
        os.close(descriptor)
        path.unlink()
    return median(took)


def _million_calls_milliseconds() -> float:
    """What the interpreter takes for a million calls of a function; the median. It differs by how it was compiled."""

    def nothing() -> None:
        return

    took = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        for _ in range(_CALLS):
            nothing()
        took.append((time.perf_counter() - began) * 1e3)
    return median(took)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
