"""One trace: whether it hangs together, and what it looks like as a tree."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from checks import LANGUAGES, Kill, Recorded
from collector import Span
from rich.tree import Tree

from stepwell.v1 import types_pb2

CLAIM = "stepwell.claim"
ACTIVITY = "stepwell.activity "
COLOURS = {"demo": "magenta", "polyglot-python": "yellow", "polyglot-go": "cyan", "polyglot-typescript": "blue"}
# Of spans that are alike, so many are shown.
ALIKE = 2
# In seconds: what a worker ended so shortly before it was killed, it may have had no time to send.
UNSENT = 1.0


class Trace:
    """The spans of one trace among all that were sent. `kill` explains what is not there."""

    def __init__(self, trace_id: str, sent: list[Span], recorded: list[Recorded], kill: Kill | None) -> None:
        self.trace_id = trace_id
        self.spans = sorted((span for span in sent if span.trace_id == trace_id), key=lambda span: span.start)
        self._sent = sent
        self._recorded = recorded
        self._kill = kill
        self._by_id = {span.span_id: span for span in self.spans}
        self._below: dict[str, list[Span]] = defaultdict(list)
        for span in self.spans:
            above = self._above(span)
            self._below["" if above is None else above.span_id].append(span)

    # --- whether it hangs together ------------------------------------------------------------------------------------

    def faults(self) -> list[str]:
        """What is wrong with it."""
        return [*self._strays(), *self._orphans(), *self._unlike_the_record()]

    def _strays(self) -> Iterator[str]:
        services = {span.service for span in self.spans}
        for service in ("stepwell", *COLOURS):
            if service not in services:
                yield f"the trace has no span of {service}"
        strays = Counter(span.service for span in self._sent if span.trace_id != self.trace_id)
        for service in COLOURS:
            if strays[service]:
                yield f"{strays[service]} spans of {service} are in other traces"

    def _orphans(self) -> Iterator[str]:
        roots = [span for span in self.spans if not span.parent_id]
        if len(roots) != 1:
            yield f"the trace has {len(roots)} roots"
        for span in self.spans:
            if span.parent_id and span.parent_id not in self._by_id and not self._is_of_killed(span):
                yield f"{span.name} of {span.service} has a parent that nobody sent"

    def _unlike_the_record(self) -> Iterator[str]:
        """Each step that was recorded has a span: in its language, below a claim of the very step, or of the run."""
        performed = Counter[tuple[str, str]]()
        for span in self.spans:
            if not span.name.startswith(ACTIVITY):
                continue
            key = (span.about["stepwell.run_id"], span.about["stepwell.step"])
            performed[key] += 1
            above = self._above(span)
            claimed = None if above is None else (above.name, above.about["stepwell.run"], above.about["stepwell.step"])
            if claimed != (CLAIM, *key):
                yield f"{span.name} of {span.service} is not below its claim"
            if span.service != f"polyglot-{LANGUAGES[key[1]]}":
                yield f"{span.name} is of {span.service}"
        for each in self._recorded:
            for name, steps in each.of_kind(types_pb2.STEP_KIND_ACTIVITY).items():
                sure = [step for step in steps if not self._may_be_unsent(step.end_time.ToNanoseconds() / 1e9, name)]
                if not len(sure) <= performed[each.run.run_id, name] <= len(steps):
                    yield f"{len(steps)} times {name}, but {performed[each.run.run_id, name]} spans of it"
            for name in each.of_kind(types_pb2.STEP_KIND_LOCAL):
                if not self._has_local(each.run.run_id, name):
                    yield f"no span {name} of polyglot-{LANGUAGES[name]} is below a claim of run {each.run.type}"

    def _has_local(self, run_id: str, name: str) -> bool:
        """Whether the span that a program made within a step of its own is below a claim of the run."""
        for span in self.spans:
            above = self._above(span)
            if above is not None and (span.name, span.service) == (name, f"polyglot-{LANGUAGES[name]}"):
                return (above.name, above.about["stepwell.run"], above.about["stepwell.step"]) == (CLAIM, run_id, "")
        return False

    def _may_be_unsent(self, ended: float, name: str) -> bool:
        kill = self._kill
        return kill is not None and LANGUAGES[name] == "go" and kill.time - UNSENT <= ended <= kill.time

    def _is_of_killed(self, span: Span) -> bool:
        """Whether the span is the killed worker's, or is about what that worker held."""
        if self._kill is None:
            return False
        return span.pid == self._kill.pid or f"/{self._kill.pid}/" in span.about.get("stepwell.worker", "")

    def _above(self, span: Span) -> Span | None:
        """Its parent; where the killed worker took that along, the claim of the same attempt."""
        if not span.parent_id or span.parent_id in self._by_id or not self._is_of_killed(span):
            return self._by_id.get(span.parent_id)
        wanted = [span.about.get(f"stepwell.{name}") for name in ("run", "step", "attempt")]
        for claim in self.spans:
            if (
                claim.name == CLAIM
                and [claim.about[f"stepwell.{name}"] for name in ("run", "step", "attempt")] == wanted
            ):
                return claim
        return None

    # --- what it looks like -------------------------------------------------------------------------------------------

    def tree(self) -> Tree:
        """Runs, below them what was claimed of them, below that what was done. Runs are the record's, no spans."""
        services = Counter(span.service for span in self.spans)
        told = ", ".join(f"{count} of {service}" for service, count in services.most_common())
        tree = Tree(f"[bold]trace {self.trace_id}[/]: {len(self.spans)} spans, {told}")
        for root in self._below[""]:
            branch = tree.add(self._label(root))
            below = self._below[root.span_id]
            self._add(branch, [span for span in below if "stepwell.run" not in span.about])
            self._add_runs(branch, below)
        return tree

    def _add_runs(self, top: Tree, spans: list[Span]) -> None:
        branches: dict[str, Tree] = {}
        parents = {step.child_run_id: each.run.run_id for each in self._recorded for step in each.steps}
        for each in self._recorded:
            run = each.run
            took = (run.end_time.ToNanoseconds() - run.create_time.ToNanoseconds()) / 1e9
            above = branches.get(parents.get(run.run_id, ""), top)
            told = f"[bold]run {run.type}[/], a workflow in {LANGUAGES[run.type]} {_told(took)}"
            branches[run.run_id] = above.add(told)
            self._add(branches[run.run_id], [span for span in spans if span.about.get("stepwell.run") == run.run_id])

    def _add(self, branch: Tree, spans: list[Span]) -> None:
        """Adds spans with all that is below them; of those that are alike, the first ones."""
        alike: dict[tuple[str, ...], list[Span]] = defaultdict(list)
        for span in spans:
            killed = str(self._was_killed(span))
            alike[span.name, span.service, span.about.get("stepwell.step", ""), killed].append(span)
        for group in alike.values():
            shown = group if len(group) <= ALIKE + 1 else group[:ALIKE]
            for span in shown:
                self._add(branch.add(self._label(span)), self._below[span.span_id])
            if len(group) > len(shown):
                branch.add(f"[dim]… and {len(group) - len(shown)} more like it[/]")

    def _was_killed(self, span: Span) -> bool:
        """Whether it is a claim of something that ended with the killed worker."""
        if span.name != CLAIM or not self._is_of_killed(span):
            return False
        names = ("stepwell.run", "stepwell.step")
        later = (each for each in self.spans if each.name == CLAIM and each.start > span.start)
        again = any(all(each.about[name] == span.about[name] for name in names) for each in later)
        return again and not any(each.name.startswith(ACTIVITY) for each in self._below[span.span_id])

    def _label(self, span: Span) -> str:
        words = span.name.removeprefix("stepwell.")
        if span.name == CLAIM:
            words = f"claim of {'step ' + span.about['stepwell.step'] if span.about['stepwell.step'] else 'the run'}"
            words += f", attempt {span.about['stepwell.attempt']}"
        colour = COLOURS.get(span.service, "green")
        killed = " [red]killed with its worker[/]" if self._was_killed(span) else ""
        return f"{words} [{colour}]{span.service}[/] {_told(span.end - span.start)}{killed}"


def _told(seconds: float) -> str:
    """A duration for people; nothing for what only marks a moment."""
    if seconds < 1e-6:
        return ""
    return f"[dim]{seconds:.1f} s[/]" if seconds >= 1 else f"[dim]{seconds * 1000:.1f} ms[/]"
