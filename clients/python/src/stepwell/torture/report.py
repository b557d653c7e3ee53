"""What it came to: numbers and findings, as JSON for programs and as Markdown for pages."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stepwell.torture.faults import Fault, Kind
from stepwell.torture.ledger import Line
from stepwell.torture.load import Start
from stepwell.torture.plan import Plan
from stepwell.torture.recorded import Recorded
from stepwell.torture.verdict import Again, Verdict


class Done(NamedTuple):
    """What the workers of a language did: runs are those that they were seen with."""

    effects: int
    runs: int
    processes: int


HEADS = ("effects begun", "runs seen in hand", "worker processes")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result. `languages` tells by language what its workers did."""

    plan: Plan
    seconds: float
    counts: dict[str, int]
    languages: dict[str, Done]
    faults: tuple[Fault, ...]
    verdict: Verdict

    @property
    def by_kind(self) -> dict[str, int]:
        """How many faults there were, by kind."""
        counted = Counter(fault.kind for fault in self.faults)
        return {kind.value: counted[kind] for kind in Kind if counted[kind]}

    @property
    def findings(self) -> dict[str, list[str]]:
        """What was found, in words, under the heading of each sort."""
        verdict = self.verdict
        return {
            "lost": verdict.lost,
            "recorded twice": verdict.twice,
            "recorded and not done": verdict.undone,
            "stuck": verdict.stuck,
            "done twice, unexplained": [in_words(each) for each in verdict.unexplained],
            "trouble": verdict.troubles,
            "done twice, explained": [in_words(each) for each in verdict.explained],
        }

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "clean": self.verdict.is_clean,
            "seed": self.plan.seed,
            "seconds": round(self.seconds, 1),
            "workers": list(self.plan.workers),
            "counts": self.counts,
            "languages": {name: done._asdict() for name, done in self.languages.items()},
            "faults": self.by_kind,
            "findings": self.findings,
        }

    def as_markdown(self) -> str:
        """For pages: tables of the same."""
        findings = self.findings
        word = "clean" if self.verdict.is_clean else "NOT CLEAN"
        head = (
            f"# A torture run: {word}\n\n{self.plan.seconds:g} s of load and faults, {self.seconds:.0f} s until "
            f"all had ended; seed {self.plan.seed}. [How to read it](torture.md)."
        )
        languages = [f"| {name} | {' | '.join(map(str, done))} |" for name, done in self.languages.items()]
        parts = [
            head,
            _table("| what was asked, and came of it | count |", self.counts),
            "\n".join([f"| language | {' | '.join(HEADS)} |", "|---|---:|---:|---:|", *languages]),
            _table("| fault | count |", self.by_kind),
            _table("| verdict | count |", {name: len(found) for name, found in findings.items()}),
        ]
        rules = Counter(each.rule.value for each in self.verdict.explained if each.rule)
        if rules:
            parts.append(_table("| done twice, and why it may be | count |", dict(rules)))
        return "\n\n".join(parts) + "\n"


def _table(head: str, rows: dict[str, int]) -> str:
    return "\n".join([head, "|---|---:|", *(f"| {name} | {count} |" for name, count in rows.items())])


def in_words(again: Again) -> str:
    """Tells of an effect that began twice."""
    earlier, later = again.earlier, again.later
    what = (
        f"{earlier.key}: {earlier.language} {earlier.worker} in attempt {earlier.attempt}, and "
        f"{later.time - earlier.time:.1f} s later {later.language} {later.worker} in attempt {later.attempt}"
    )
    if again.rule is None or again.fault is None:
        return what
    fault = again.fault
    since = fault.begin - earlier.time
    when = f"{abs(since):.1f} s {'after' if since >= 0 else 'before'} the first"
    lasted = f", for {fault.end - fault.begin:.1f} s" if fault.end - fault.begin > 0.1 else ""  # noqa: PLR2004
    return f"{what}: {again.rule}; {fault.kind} ({fault.target}) {when}{lasted}"


def report_on(  # noqa: PLR0917 - all that was noted
    plan: Plan,
    seconds: float,
    starts: Sequence[Start],
    lines: Sequence[Line],
    recorded: Sequence[Recorded],
    faults: Sequence[Fault],
    held: Mapping[str, int],
    verdict: Verdict,
) -> Report:
    """Counts."""
    acknowledged = [start for start in starts if start.id]
    names = sorted({line.language for line in lines} | held.keys())
    return Report(
        plan=plan,
        seconds=seconds,
        counts={
            "runs started": sum(not start.is_job for start in acknowledged),
            "jobs started": sum(start.is_job for start in acknowledged),
            "starts repeated on purpose": sum(len(start.answers) for start in starts),
            "starts never acknowledged": len(starts) - len(acknowledged),
            "ended": sum(bool(start.ended) for start in acknowledged),
            "children on record": sum(bool(each.parent) for each in recorded),
            "effects asked for": sum(len(start.effects) for start in acknowledged),
            "effects begun": len(lines),
            "faults": len(faults),
        },
        languages={
            name: Done(
                sum(line.language == name for line in lines),
                held.get(name, 0),
                len({line.worker for line in lines if line.language == name}),
            )
            for name in names
        },
        faults=tuple(faults),
        verdict=verdict,
    )
