"""Meters: processor time and memory from /proc, WAL and commits from Postgres, statements from the service."""

from __future__ import annotations

import os
import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_COMMIT = re.compile(r"^Transaction/(?:COMMIT|COMMIT_PREPARED) +(\d+) ", re.MULTILINE)
_TOTAL = re.compile(r"^Total +(\d+) +(\d+) \[[\d.]+%\] +(\d+) \[[\d.]+%\] +(\d+) ", re.MULTILINE)


@dataclass(frozen=True)
class Wal:
    """What was written between two positions: bytes of records, of the full-page images in them, and commits."""

    record_bytes: int
    image_bytes: int
    commits: int


def cpu_seconds(pid: int) -> float:
    """Processor time of one process so far, and of its children that have ended."""
    return sum(map(int, _stat(pid)[11:15])) / _TICK


def family_seconds(pid: int) -> float:
    """Processor time of a process and of all its children, also those that have ended: Postgres and its backends."""
    total = cpu_seconds(pid)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = _stat(int(folder.name))
        except OSError:
            continue  # it has ended, and is counted with its parent
        if int(fields[1]) == pid:
            total += (int(fields[11]) + int(fields[12])) / _TICK
    return total


def resident_bytes(pid: int) -> int:
    """Memory of a process that is its own: without what it shares with others through files."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def counter(address: str, name: str) -> float:
    """Reads a counter of the service's metrics."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return read_counter(text, name)


def read_counter(text: str, name: str) -> float:
    """Finds a counter without labels in Prometheus' text. Raises `LookupError`."""
    for line in text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise LookupError(f"the service tells no {name}")


def read_wal(text: str) -> Wal:
    """Reads what `pg_waldump --stats=record` prints."""
    total = _TOTAL.search(text)
    if total is None:
        raise LookupError(f"pg_waldump printed no total:\n{text[-500:]}")
    return Wal(int(total[2]), int(total[3]), sum(map(int, _COMMIT.findall(text))))


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
