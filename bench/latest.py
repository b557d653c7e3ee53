"""Results: the last figure of each case, with the machine that they were measured on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.figures import Figure

FILE = Path(__file__).with_name("results") / "latest.json"
Results = dict[str, Any]
_EMPTY: Results = {"machine": {}, "cases": []}
# What does not change the machine, though it differs from one measurement to the next.
_PASSING = ("fdatasync_ms", "million_calls_ms")


def read(file: Path = FILE) -> Results:
    """The results; none yet if there is no file."""
    if not file.exists():
        return {name: type(value)() for name, value in _EMPTY.items()}
    found: Results = json.loads(file.read_text())
    return found


def merged(
    last: Results, figures: Sequence[Figure], machine: dict[str, Any], commit: str, order: Sequence[str]
) -> Results:
    """New figures in place of older ones. Those of another machine go: figures of two say nothing beside each other."""
    measured = {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit}
    is_same = _lasting(last["machine"]) == _lasting(machine)
    cases = {each["case"]: each for each in last["cases"]} if is_same else {}
    cases |= {each.case: each.as_json() | measured for each in figures}
    places = {name: place for place, name in enumerate(order)}
    ordered = sorted(cases.values(), key=lambda case: places.get(case["case"], len(places)))
    return {"machine": machine, "cases": ordered}


def write(results: Results, file: Path = FILE) -> None:
    """Writes them, so that a difference between two versions reads well."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")


def case(results: Results, name: str) -> dict[str, Any] | None:
    """One of them."""
    found: dict[str, Any] | None = next((each for each in results["cases"] if each["case"] == name), None)
    return found


def _lasting(machine: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in machine.items() if name not in _PASSING}
