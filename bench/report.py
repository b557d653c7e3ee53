"""What a person sees: how far it is, and the table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table

from bench.targets import Target

Row = Mapping[str, Any]


class Progress:
    """One line that changes on a terminal; lines one below the other elsewhere. On standard error."""

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status: Status | None = self._console.status("") if self._console.is_terminal else None
        self._total = total
        self._number = 0
        self._case = ""
        self._began = time.monotonic()
        if self._status is not None:
            self._status.start()

    def begin(self, case: str) -> None:
        """The next case."""
        self._number += 1
        self._case = case
        self.tell("begins")

    def tell(self, what: str) -> None:
        """What is done now."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        line = f"{minutes:2}:{seconds:02}  {self._number}/{self._total} {self._case}: {what}"
        if self._status is not None:
            self._status.update(line)
        else:
            self._console.print(line, soft_wrap=True, markup=False)

    def remark(self, text: str) -> None:
        """What stays to be read."""
        self._console.print(text, soft_wrap=True, markup=False)

    def end(self) -> None:
        """Takes the line away."""
        if self._status is not None:
            self._status.stop()


def shown(value: float | None) -> str:
    """A number for a table, in three or four digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def judged(row: Row, target: Target) -> float | None:
    """The number that is compared with the target."""
    number: float | None = row["ratio"] if target.of == "ratio" else row["value"]
    return number


def verdict(row: Row) -> str:
    """Whether it reached what it must, and what was wished for."""
    return {None: "", True: "yes", False: "no"}[row["met"]]


def table(rows: Sequence[Row], targets: Mapping[str, Target]) -> Table:
    """The figures with their targets."""
    made = Table(box=None, pad_edge=False)
    made.add_column("figure")
    for name in ("measured", "", "value", "unit", "spread", "must", "aim", "met", "CPU us"):
        made.add_column(name, justify="left" if name in {"", "unit", "met"} else "right")
    for row in rows:
        target = targets[row["case"]]
        cpu = row["details"].get("cpu_us_all")
        made.add_row(
            row["case"],
            shown(judged(row, target)),
            target.unit,
            shown(row["value"]),
            row["unit"],
            "" if row["spread"] is None else f"{row['spread']:.0%}",
            shown(target.must),
            shown(target.aim),
            verdict(row),
            shown(cpu),
        )
    return made
