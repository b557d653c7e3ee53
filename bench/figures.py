"""Figures: what a case comes to, and the arithmetic on repeated measurements."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

# A block whose baseline differs more than so within itself says more of the machine than of the case.
WANDER = 0.20


@dataclass(frozen=True)
class Figure:
    """One figure of one case, as it stands in the results.

    `value` is in `unit`. `ratio` is that to `baseline`, where the case has one. `spread` is the difference between the
    greatest and the least of the repeated measurements, as a part of their median. `target` is what must be reached,
    `aim` what is wished for; none: the figure is reported only. `met` tells whether `target` was reached.
    """

    case: str
    value: float
    unit: str
    ratio: float | None = None
    baseline: float | None = None
    spread: float | None = None
    target: float | None = None
    aim: float | None = None
    met: bool | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What is written; numbers are rounded to what a reader can use."""
        return {name: _rounded(value) for name, value in asdict(self).items()}


def median(values: Sequence[float]) -> float:
    """The middle one. Raises `ValueError` for none."""
    if not values:
        raise ValueError("no values were measured")
    return float(statistics.median(values))


def spread(values: Sequence[float]) -> float:
    """The greatest less the least, as a part of the median; 0 for a single one."""
    middle = median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def wanders(baselines: Sequence[float]) -> bool:
    """Whether a block is to be repeated, by the baselines measured in it."""
    return spread(baselines) > WANDER


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which that part of all lies, counted by rank: the 99th percentile of few is the greatest."""
    if not values:
        raise ValueError("no values were measured")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < 1_000 else round(value, 1)
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
