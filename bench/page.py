"""docs/performance.md and its plots: what is between the markers is written from the results, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import charts
from bench.latest import Results, case, read
from bench.report import judged, shown
from bench.targets import Target, targets

_ROOT = Path(__file__).resolve().parents[1]
PAGE = _ROOT / "docs/performance.md"
REACHES, CPU = _ROOT / "docs/performance/reaches.svg", _ROOT / "docs/performance/cpu.svg"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
_NONE = "No figures yet: `make bench` writes them.\n"


class PageError(ValueError):
    """The page has no place for the figures."""


def write() -> None:
    """Writes the figures into the page, and the plots."""
    results, wanted = read(), targets()
    PAGE.write_text(with_figures(PAGE.read_text(), figures(results, wanted)))
    REACHES.parent.mkdir(exist_ok=True)
    for file, text in plots(results, wanted).items():
        file.write_text(text)


def with_figures(text: str, made: str) -> str:
    """The page with other figures. Raises `PageError` if a marker is missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise PageError(f"the page lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{made}{END}{after}"


def figures(results: Results, wanted: Mapping[str, Target]) -> str:
    """All that is said in figures."""
    if not results["cases"]:
        return _NONE
    parts = [_machine(results), _table(results, wanted), "![reaches](performance/reaches.svg)\n"]
    if _cpu(results):
        parts += ["![processor time](performance/cpu.svg)\n", _cpu_table(results)]
    return "\n".join(parts)


def plots(results: Results, wanted: Mapping[str, Target]) -> dict[Path, str]:
    """The plots, by file; none without figures."""
    if not results["cases"]:
        return {}
    bars = [
        charts.Bar(name, reach, _reach(target, target.aim), _text(row, target))
        for name, target in wanted.items()
        if (row := case(results, name)) and (reach := _reach(target, judged(row, target))) is not None
    ]
    return {REACHES: charts.reaches(bars), CPU: charts.stacks(_cpu(results), "us")}


def _reach(target: Target, number: float | None) -> float | None:
    """How often a number has what it must; 1 is just enough, in either direction."""
    if number is None or not target.must:
        return None
    return number / target.must if target.better == "more" else target.must / max(number, 1e-9)


def _text(row: Mapping[str, Any], target: Target) -> str:
    return f"{shown(judged(row, target))} {target.unit}"


def _machine(results: Results) -> str:
    machine = results["machine"]
    days = sorted({each["measured"][:10] for each in results["cases"]})
    commits = sorted({each["commit"] for each in results["cases"]})
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return (
        f"Measured {when} at commit {', '.join(commits)}.\n"
        f"The machine: {machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, {machine['system']}, "
        f"{machine['filesystem']}, fdatasync {machine['fdatasync_ms']} ms.\n"
        f"Python {machine['python']}, in which a million calls take {machine['million_calls_ms']} ms.\n"
        f"Postgres {machine['postgres']}, {packages}.\n"
    )


def _table(results: Results, wanted: Mapping[str, Target]) -> str:
    lines = ["| figure | measured | value | B | spread | must | aim | met |", "|---|---|---|---|---|---|---|---|"]
    for name, target in wanted.items():
        row = case(results, name)
        goals = f"{shown(target.must)} | {shown(target.aim)}"
        if row is None:
            lines.append(f"| {target.title} | not measured | | | | {goals} | |")
            continue
        spread = "" if row["spread"] is None else f"{row['spread']:.0%}"
        base = shown(row["details"].get("pgbench"))
        value = f"{shown(row['value'])} {row['unit']}"
        met = {None: "", True: "yes", False: "**no**"}[row["met"]]
        lines.append(f"| {target.title} | {_text(row, target)} | {value} | {base} | {spread} | {goals} | {met} |")
    return "\n".join([*lines, ""])


def _cpu(results: Results) -> dict[str, dict[str, float]]:
    """Processor time of each process for the cases that tell it whole."""
    told = {}
    for each in results["cases"]:
        cpu = each["details"].get("cpu_us")
        if cpu and "service" in cpu and "cpu_us_all" in each["details"]:
            told[each["case"]] = cpu
    return told


def _cpu_table(results: Results) -> str:
    lines = ["| us each | service | worker | load | Postgres | all |", "|---|---|---|---|---|---|"]
    for name, cpu in _cpu(results).items():
        parts = " | ".join(f"{cpu[part]:.0f}" for part in ("service", "worker", "load", "postgres"))
        lines.append(f"| {name} | {parts} | {sum(cpu.values()):.0f} |")
    return "\n".join([*lines, ""])
