"""The check that matters: what was published and recorded, against a plain computation."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepwell.v1 import history_pb2, runs_pb2, types_pb2

# Who has what, workflows and steps.
LANGUAGES = {
    "publish": "python",
    "plan": "python",
    "count": "python",
    "sum up": "python",
    "archive": "go",
    "weigh": "go",
    "digest": "go",
    "pack": "go",
    "render": "typescript",
    "page": "typescript",
    "sort": "typescript",
    "contents": "typescript",
}


@dataclass(frozen=True, slots=True)
class Kill:
    """Which process was killed, when (seconds since 1970), and how many files it had packed by its last heartbeat."""

    pid: int
    time: float
    packed: int


@dataclass(slots=True)
class Recorded:
    """What the API says of one run."""

    run: runs_pb2.Run
    steps: list[runs_pb2.Step]
    events: list[history_pb2.Event]

    def by_name(self) -> dict[str, list[runs_pb2.Step]]:
        """The steps by their name, in the order of their creation."""
        found: dict[str, list[runs_pb2.Step]] = defaultdict(list)
        for step in self.steps:
            found[step.name].append(step)
        return found

    def of_kind(self, kind: types_pb2.StepKind.ValueType) -> dict[str, list[runs_pb2.Step]]:
        """Those of a kind, by their name."""
        return {name: steps for name, steps in self.by_name().items() if steps[0].kind == kind}


@dataclass(slots=True)
class Verdict:
    """What was found: figures, and what is wrong."""

    figures: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def expect(self, *, holds: bool, otherwise: str) -> None:
        """Notes a fault unless it holds."""
        if not holds:
            self.faults.append(otherwise)


def judge(result: dict[str, Any], recorded: list[Recorded], kill: Kill | None, source: Path, target: Path) -> Verdict:
    """Holds everything against everything."""
    verdict = Verdict()
    names = sorted(path.name for path in source.glob("*.md"))
    verdict.expect(holds=result["names"] == names, otherwise="not every page was planned")
    _judge_go(result["archived"], kill, source, target, verdict)
    _judge_typescript(result, source, target, verdict)
    _judge_python(result, source, verdict)
    _judge_record(recorded, len(names), verdict)
    verdict.figures["most frequent words"] = ", ".join(result["frequent"])
    return verdict


def _digests(folder: Path, pattern: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob(pattern)}


def _judge_go(archived: dict[str, Any], kill: Kill | None, source: Path, target: Path, verdict: Verdict) -> None:
    verdict.expect(holds=archived["digests"] == _digests(source, "*.md"), otherwise="Go hashed otherwise than Python")
    weight = sum(path.stat().st_size for path in source.glob("*.md"))
    verdict.expect(holds=archived["bytes"] == weight, otherwise=f"Go weighed {archived['bytes']} bytes, not {weight}")
    for path in source.glob("*.md"):
        twin = target / f"{path.name}.gz"
        same = twin.is_file() and gzip.decompress(twin.read_bytes()) == path.read_bytes()
        verdict.expect(holds=same, otherwise=f"{twin.name} does not hold what it should")
    if kill is None:
        verdict.faults.append("all was packed before there was something to interrupt")
        return
    packed = archived["packed"]
    went_on = packed["attempt"] > 1 and packed["resumed_from"] >= kill.packed
    verdict.expect(holds=went_on, otherwise=f"killed after {kill.packed} files, but packing came to {packed}")
    verdict.figures["packing"] = f"attempt {packed['attempt']} went on after file {packed['resumed_from']}"


def _judge_typescript(result: dict[str, Any], source: Path, target: Path, verdict: Verdict) -> None:
    digests = result["rendered"]["digests"]
    rendered = _digests(target, "*.html")
    contents = rendered.pop(result["contents"], None)
    verdict.expect(holds=contents is not None, otherwise="there is no table of contents")
    verdict.expect(holds=digests == rendered, otherwise="Go hashed other pages than TypeScript wrote")
    titles = {page["title"] for page in result["rendered"]["pages"]}
    verdict.expect(holds=set(result["rendered"]["titles"]) == titles, otherwise="titles were lost when sorted")
    for page in result["rendered"]["pages"]:
        text = (target / page["name"]).read_text()
        first = re.search(r"^# (.+)$", (source / page["name"]).with_suffix(".md").read_text(), re.MULTILINE)
        titled = first is not None and first[1] == page["title"] and "<h1>" in text
        verdict.expect(holds=titled, otherwise=f"{page['name']} has another title than its source")
        linked = f'href="{page["name"]}"' in (target / result["contents"]).read_text()
        verdict.expect(holds=linked, otherwise=f"{page['name']} is not among the contents")


def _judge_python(result: dict[str, Any], source: Path, verdict: Verdict) -> None:
    total: Counter[str] = Counter()
    for name, words in result["words"].items():
        counted = Counter(re.findall(r"[a-z]{4,}", (source / name).read_text().lower()))
        verdict.expect(holds=counted.total() == words, otherwise=f"{name}: {words} words, but {counted.total()}")
        total += counted
    for place, word in enumerate(result["frequent"][1:]):
        sorted_ = total[word] <= total[result["frequent"][place]]
        verdict.expect(holds=sorted_, otherwise=f"{word} is more frequent than the one before")


def _judge_record(recorded: list[Recorded], pages: int, verdict: Verdict) -> None:
    types = sorted(each.run.type for each in recorded)
    verdict.expect(holds=types == ["archive", "publish", "render"], otherwise=f"there are other runs: {types}")
    counts = Counter(step.name for each in recorded for step in each.steps)
    expected = dict.fromkeys(LANGUAGES, 1) | {"count": pages, "page": pages, "digest": 2}
    del expected["publish"]
    verdict.expect(holds=counts == expected, otherwise=f"the steps are {dict(counts)}, not {expected}")
    for each in recorded:
        numbers = [event.number for event in each.events]
        gapless = numbers == list(range(1, len(numbers) + 1))
        verdict.expect(holds=gapless, otherwise=f"run {each.run.type}: history has gaps")
        ended = each.run.phase == types_pb2.RUN_PHASE_COMPLETED
        ended = ended and all(step.state == types_pb2.STEP_STATE_COMPLETED for step in each.steps)
        verdict.expect(holds=ended, otherwise=f"run {each.run.type} did not complete, or a step of it")
    interrupted = sum(event.type == "RunInterrupted" for each in recorded for event in each.events)
    verdict.figures["runs that went on in another process"] = str(interrupted)
