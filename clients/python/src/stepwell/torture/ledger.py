"""What the workers did, as they told it themselves: a line for each beginning of an effect, whatever is on record."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from stepwell.torture.plan import TortureError


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """An effect that began: whose it was, in which attempt, when. `worker` names the process that had the file."""

    key: str
    language: str
    attempt: int
    time: float
    worker: str


def read(path: Path, worker: str) -> list[Line]:
    """Reads a worker's ledger. A last line without an end was cut off with its writer: that effect had not begun."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    return [_line(text, path, worker) for text in whole.splitlines()]


def _line(text: str, path: Path, worker: str) -> Line:
    try:
        told = json.loads(text)
        return Line(str(told["key"]), str(told["language"]), int(told["attempt"]), float(told["time"]), worker)
    except (ValueError, KeyError, TypeError) as error:
        raise TortureError(f"{path}: no line of a ledger (docs/torture.md): {text!r} ({error})") from None
