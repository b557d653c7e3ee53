"""The check that matters: what was recorded, against a plain computation and against what the workers left behind."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measures
from worker import Report

from stepwell.v1 import history_pb2, runs_pb2, types_pb2


@dataclass(slots=True)
class Recorded:
    """What the API says of one run."""

    run: runs_pb2.Run
    steps: list[runs_pb2.Step]
    events: list[history_pb2.Event]


@dataclass(slots=True)
class Kills:
    """What was killed, and when, in seconds since 1970."""

    worker: str = ""
    service: float = 0.0


@dataclass(slots=True)
class Lost:
    """An attempt that came to nothing, as the record has it: whose it was, and when it was given up."""

    worker: str
    time: float

    def is_of(self, line: dict[str, Any], kills: Kills) -> bool:
        """Tells whether it is the attempt that left this effect, and a kill took it: its worker's, or the service's."""
        was_under_way = line["time"] <= kills.service <= self.time
        return f"/{line['pid']}/" in self.worker and (self.worker == kills.worker or was_under_way)


@dataclass(slots=True)
class Verdict:
    """What was found: figures, and what is wrong."""

    figures: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def expect(self, *, holds: bool, otherwise: str) -> None:
        """Notes a fault unless it holds."""
        if not holds:
            self.faults.append(otherwise)


def plain_totals(names: Iterable[str]) -> dict[str, dict[str, int]]:
    """The same survey by one process, without anything durable."""
    return {name: measures.total([measures.measure(path) for path in measures.sources(name)]) for name in names}


def judge(
    reports: dict[str, Report], recorded: list[Recorded], effects: Path, plain: dict[str, dict[str, int]], kills: Kills
) -> Verdict:
    """Holds everything against everything."""
    verdict = Verdict()
    verdict.expect(holds=set(reports) == set(plain), otherwise="not every name has a report")
    for name, report in reports.items():
        verdict.expect(holds=report.total == plain[name], otherwise=f"{name}: {report.total}, but {plain[name]}")
    _judge_record(recorded, plain, verdict)
    lost = _interruptions(recorded)
    _judge_effects(recorded, read_effects(effects), lost, kills, verdict)
    of_killed = sum(each.worker == kills.worker for found in lost.values() for each in found)
    verdict.expect(holds=of_killed > 0, otherwise="the killed worker was interrupted in nothing")
    return verdict


def _judge_record(recorded: list[Recorded], plain: dict[str, dict[str, int]], verdict: Verdict) -> None:
    files = sum(total["files"] for total in plain.values())
    activities = [step for each in recorded for step in each.steps if step.kind == types_pb2.STEP_KIND_ACTIVITY]
    keys = Counter((each.run.run_id, step.ordinal) for each in recorded for step in each.steps)
    done = sum(step.state == types_pb2.STEP_STATE_COMPLETED for step in activities)
    verdict.expect(holds=done == len(activities) == files, otherwise=f"{done} activities recorded for {files} files")
    verdict.expect(holds=max(keys.values(), default=1) == 1, otherwise="a step was recorded twice")
    for each in recorded:
        numbers = [event.number for event in each.events]
        gapless = numbers == list(range(1, len(numbers) + 1))
        verdict.expect(holds=gapless, otherwise=f"run {each.run.run_id}: history has gaps")
        ended = each.run.phase == types_pb2.RUN_PHASE_COMPLETED
        verdict.expect(holds=ended, otherwise=f"run {each.run.run_id} did not complete")
    events = Counter(event.type for each in recorded for event in each.events)
    verdict.figures = {
        "runs": len(recorded),
        "steps": sum(len(each.steps) for each in recorded),
        "activities": len(activities),
        "events": sum(events.values()),
        "activities interrupted": events["ActivityInterrupted"],
        "activities returned": events["ActivityReturned"],
        "runs interrupted": events["RunInterrupted"],
    }


def _interruptions(recorded: list[Recorded]) -> dict[tuple[str, int], list[Lost]]:
    """Who lost which activities."""
    found: dict[tuple[str, int], list[Lost]] = defaultdict(list)
    for each in recorded:
        for event in each.events:
            if event.type in ("ActivityInterrupted", "ActivityReturned"):
                lost = Lost(event.attributes["worker"], event.time.ToNanoseconds() / 1e9)
                found[each.run.run_id, event.step_ordinal].append(lost)
    return found


def read_effects(path: Path) -> list[dict[str, Any]]:
    """What the workers left behind: a line for each time that an activity was begun."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _judge_effects(
    recorded: list[Recorded],
    lines: list[dict[str, Any]],
    lost: dict[tuple[str, int], list[Lost]],
    kills: Kills,
    verdict: Verdict,
) -> None:
    """Each file at least once in the world outside; more often only where a kill interrupted what went before."""
    left: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        left[line["run"], line["step"]].append(line)
    again = 0
    for each in recorded:
        for step in each.steps:
            if step.kind != types_pb2.STEP_KIND_ACTIVITY:
                continue
            key = (each.run.run_id, step.ordinal)
            verdict.expect(holds=bool(left[key]), otherwise=f"{step.name} of run {key[0]} left no effect")
            for line in left[key][:-1]:
                again += 1
                explained = any(found.is_of(line, kills) for found in lost[key])
                verdict.expect(holds=explained, otherwise=f"step {key} was performed again, and no kill explains it")
    verdict.expect(holds=again > 0, otherwise="no activity that had begun was interrupted")
    verdict.figures["effects"] = len(lines)
    verdict.figures["activities performed again"] = again
