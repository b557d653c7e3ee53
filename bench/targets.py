"""Targets: what each figure must reach, read from targets.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from bench.figures import Figure

FILE = Path(__file__).with_name("targets.toml")
Better = Literal["more", "less"]
Of = Literal["ratio", "value"]
_KEYS = {"title", "of", "unit", "better", "must", "aim"}


class TargetError(ValueError):
    """The file does not say what a target is."""


@dataclass(frozen=True)
class Target:
    """A row of the table. Without `must` the figure is only reported."""

    title: str
    of: Of
    unit: str
    better: Better
    must: float | None
    aim: float | None

    def is_met(self, figure: Figure) -> bool | None:
        """Whether the figure reaches what it must; nothing where nothing is asked."""
        measured = figure.ratio if self.of == "ratio" else figure.value
        if self.must is None or measured is None:
            return None
        return measured >= self.must if self.better == "more" else measured <= self.must

    def judge(self, figure: Figure) -> Figure:
        """The figure with its target."""
        return replace(figure, target=self.must, aim=self.aim, met=self.is_met(figure))


def parse(text: str) -> dict[str, Target]:
    """Reads targets in the order of the file. Raises `TargetError`, which names the row and what is wrong."""
    return {name: _target(name, row) for name, row in tomllib.loads(text).items()}


def targets() -> dict[str, Target]:
    """Those of this repository."""
    return parse(FILE.read_text())


def _target(name: str, row: Any) -> Target:
    if not isinstance(row, dict) or row.keys() - _KEYS or {"title", "of", "unit"} - row.keys():
        raise TargetError(f"{name}: a row has title, of and unit, and may have better, must and aim")
    better, of = row.get("better", "more"), row["of"]
    if better not in get_args(Better) or of not in get_args(Of):
        raise TargetError(f"{name}: better is one of {get_args(Better)}, of one of {get_args(Of)}")
    must, aim = (None if row.get(key) is None else float(row[key]) for key in ("must", "aim"))
    if must is not None and aim is not None and (aim < must) is (better == "more") and aim != must:
        raise TargetError(f"{name}: the aim is easier than what must be reached")
    return Target(title=row["title"], of=of, unit=row["unit"], better=better, must=must, aim=aim)
