"""The guard against decay: the first three rows once each, against the last results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.figures import Figure
from bench.latest import Results, case

CASES = ("one_activity", "three_steps", "jobs")
LEAST = 0.75


@dataclass(frozen=True)
class Comparison:
    """One row, now and then."""

    name: str
    ratio: float
    last: float | None

    @property
    def has_decayed(self) -> bool:
        """Whether less than three quarters are left of what was."""
        return self.last is not None and self.ratio < LEAST * self.last

    def __str__(self) -> str:
        """For a person."""
        if self.last is None:
            return f"{self.name}: {self.ratio:.3g} B; no result to compare with"
        verdict = f", below {LEAST:.0%}" if self.has_decayed else ""
        return f"{self.name}: {self.ratio:.3g} B, {self.ratio / self.last:.0%} of the last {self.last:.3g} B{verdict}"


def compare(figures: Sequence[Figure], results: Results) -> list[Comparison]:
    """Holds the ratios of the first three rows against the last ones."""
    compared = []
    for figure in figures:
        if figure.case in CASES and figure.ratio is not None:
            last = case(results, figure.case)
            compared.append(Comparison(figure.case, figure.ratio, None if last is None else last["ratio"]))
    return compared
