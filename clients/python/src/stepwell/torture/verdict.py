"""What follows from all that was noted: what was lost, recorded twice, stuck, and done twice. Pure.

An effect that began twice is explained if each of its beginnings lost its grant by a fault before a later one, under
the rules of docs/protocol.md:

| rule | attempts | what must have happened |
|---|---|---|
| NOT_ACKNOWLEDGED | the same | a fault as the earlier began kept its acknowledgement from arriving |
| SESSION_LOST | the later higher | the worker of the earlier died, or was away for as long as its session lasts |
| BEGAN_LATE | the later no higher | another worker, the later one's, was away since before the earlier, until then |

A task that was not acknowledged goes back with its attempt unspent; one whose session is lost has spent it. A worker
that wakes may begin what came before it fell asleep, and was given to another meanwhile.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from stepwell.torture.absences import SLACK, Absence, merged
from stepwell.torture.faults import Fault
from stepwell.torture.ledger import Line
from stepwell.torture.load import Start
from stepwell.torture.plan import Times
from stepwell.torture.recorded import COMPLETED, Recorded

_CLOCK_SECONDS = 0.5
_OPEN = frozenset({"PENDING", "RUNNING", "SUSPENDED"})
UNHEARD = 0.5
"""Seconds after which an acknowledgement has arrived that nothing kept back: it is sent as the effect begins."""


class Rule(enum.StrEnum):
    """Why an effect may have begun again."""

    NOT_ACKNOWLEDGED = "its acknowledgement did not arrive"
    SESSION_LOST = "its worker's session was lost"
    BEGAN_LATE = "its worker began late what had been given to another"


@dataclasses.dataclass(frozen=True, slots=True)
class Again:
    """Two beginnings of one effect, and the fault that explains the second, if one does."""

    earlier: Line
    later: Line
    rule: Rule | None = None
    fault: Fault | None = None


@dataclasses.dataclass(slots=True)
class Verdict:
    """What was found, in words: empty lists are as it must be, but `explained`, which may hold something."""

    lost: list[str] = dataclasses.field(default_factory=list)
    twice: list[str] = dataclasses.field(default_factory=list)
    undone: list[str] = dataclasses.field(default_factory=list)
    """What is on record as done by an attempt that nobody began, or that could not have been over."""
    stuck: list[str] = dataclasses.field(default_factory=list)
    unexplained: list[Again] = dataclasses.field(default_factory=list)
    explained: list[Again] = dataclasses.field(default_factory=list)
    troubles: list[str] = dataclasses.field(default_factory=list)
    """What ended by itself or not in order, what was refused, and who did nothing."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.lost or self.twice or self.undone or self.stuck or self.unexplained or self.troubles)


def judge(  # noqa: PLR0917 - all that was noted
    starts: Sequence[Start],
    lines: Sequence[Line],
    recorded: Sequence[Recorded],
    reasons: Mapping[str, str],
    absences: Sequence[Absence],
    times: Times,
) -> Verdict:
    """Holds what was asked, done and recorded against each other. `reasons` says by key why something is stuck."""
    verdict = Verdict()
    by_key = defaultdict(list)
    for line in lines:
        by_key[line.key].append(line)
    records = {each.id: each for each in recorded}
    for start in starts:
        if start.id:
            _judge_start(verdict, start, records.get(start.id), by_key, reasons)
        elif start.problem:
            verdict.troubles.append(f"{start.kind} {start.key} was {start.problem}")
        else:
            verdict.stuck.append(f"{start.kind} {start.key} was asked for, and nobody answered")
    if not starts:
        verdict.troubles.append("nothing was asked for")
    _judge_repeats(verdict, starts, recorded)
    _judge_others(verdict, starts, recorded)
    for each in recorded:
        verdict.twice += [f"{_noun(each)} {each.id} ({each.key}): {flaw}" for flaw in each.flaws]
    verdict.undone += _undone(starts, recorded, by_key)
    for again in done_again(by_key, absences, times):
        (verdict.explained if again.rule else verdict.unexplained).append(again)
    return verdict


def _judge_start(
    verdict: Verdict,
    start: Start,
    record: Recorded | None,
    by_key: Mapping[str, Sequence[Line]],
    reasons: Mapping[str, str],
) -> None:
    what = f"{start.kind} {start.key} ({start.id})"
    if record is None:
        verdict.lost.append(f"{what} was acknowledged, and is not on record")
    elif start.problem:
        verdict.lost.append(f"{what} did not complete: {start.problem}")
    elif not start.ended and record.state == COMPLETED:
        verdict.stuck.append(f"{what} has completed, and its caller was never told")
    elif not start.ended:
        verdict.stuck.append(f"{what} is {record.state}: {reasons.get(start.key) or 'nothing explains it'}")
    elif record.state != COMPLETED:
        verdict.lost.append(f"{what} was told to have completed, and is {record.state} on record")
    elif start.result != start.expected:
        verdict.lost.append(f"{what} came to {start.result!r}, not to {start.expected!r}")
    else:
        missing = [key for key in start.effects if key not in by_key]
        verdict.lost += [f"{what} completed without effect {key}" for key in missing]
        if not start.is_job:
            _judge_steps(verdict, what, start, record)


def _judge_steps(verdict: Verdict, what: str, start: Start, record: Recorded) -> None:
    """A run that completed has taken each of its steps once, and got of each effect what that came to."""
    if record.steps != start.steps:
        found = verdict.lost if record.steps < start.steps else verdict.twice
        found.append(f"{what} took {record.steps} steps, not {start.steps}")
    done, asked = Counter(outcome.key for outcome in record.outcomes), Counter(start.effects)
    verdict.lost += [f"{what} completed, and never got what effect {key} came to" for key in asked - done]
    verdict.twice += [f"{what} got {key!r} from an effect once more than it asked" for key in done - asked]


def _judge_repeats(verdict: Verdict, starts: Sequence[Start], recorded: Iterable[Recorded]) -> None:
    """One start is one run, or job, however often it is asked for."""
    made = defaultdict(set)
    for each in recorded:
        if not each.parent and each.key:
            made[each.key].add(each.id)
    for start in starts:
        ids = made[start.key] | {start.id} - {""}
        if len(ids) > 1:
            verdict.twice.append(f"{start.kind} {start.key} was started as each of {', '.join(sorted(ids))}")
        strange = [answer for answer in start.answers if start.id and answer != start.id]
        verdict.twice += [f"{start.kind} {start.key} ({start.id}): its repeat was answered {each}" for each in strange]


def _judge_others(verdict: Verdict, starts: Sequence[Start], recorded: Sequence[Recorded]) -> None:
    """Nobody waits for children, nor for what was never acknowledged: each was wanted, and has completed."""
    asked, waited_for = {start.key for start in starts}, {start.id for start in starts}
    children = Counter(each.parent for each in recorded)
    for start in starts:
        if start.id and children[start.id] > start.children:
            count = children[start.id]
            verdict.twice.append(f"{start.kind} {start.key} ({start.id}) has {count} children, not {start.children}")
    ids = {each.id for each in recorded}
    for each in recorded:
        what = f"{'child' if each.parent else _noun(each)} {each.id} of {each.parent or each.key or 'nobody'}"
        if each.parent not in ids if each.parent else each.key not in asked:
            verdict.twice.append(f"{what} is on record, and nobody asked for it")
        elif each.id not in waited_for and each.state != COMPLETED:
            found = verdict.stuck if each.state in _OPEN else verdict.lost
            found.append(f"{what} is {each.state}")


def _undone(
    starts: Sequence[Start], recorded: Sequence[Recorded], by_key: Mapping[str, Sequence[Line]]
) -> Iterator[str]:
    """What was recorded for a worker before it had done it: a report under a grant that was over."""
    seconds = {key: start.told["seconds"] for start in starts for key in start.effects}
    for outcome in (outcome for each in recorded for outcome in each.outcomes if outcome.key in seconds):
        begun = [line.time for line in by_key.get(outcome.key, ()) if line.attempt == outcome.attempt]
        what = f"effect {outcome.key} is on record as done in attempt {outcome.attempt}"
        if not begun:
            yield f"{what}, which nobody began"
            continue
        early = min(begun) + seconds[outcome.key] - outcome.time
        if early > _CLOCK_SECONDS:
            yield f"{what}, {early:.1f} s before that was over"


def _noun(record: Recorded) -> str:
    return "job" if record.is_job else "run"


def done_again(by_key: Mapping[str, Sequence[Line]], absences: Sequence[Absence], times: Times) -> list[Again]:
    """Each beginning of an effect after its first, held against all before it: one that is unexplained decides."""
    away = defaultdict(list)
    for absence in absences:
        away[absence.worker].append(absence)
    found = []
    for lines in by_key.values():
        ordered = sorted(lines, key=lambda line: line.time)
        for place, later in enumerate(ordered[1:], 1):
            pairs = [explain(earlier, later, away, times) for earlier in ordered[:place]]
            found.append(next((pair for pair in pairs if pair.rule is None), pairs[-1]))
    return found


def explain(earlier: Line, later: Line, away: Mapping[str, Sequence[Absence]], times: Times) -> Again:
    """Finds the fault by which the earlier one lost its grant before the later, or the later one never had it."""
    first, second = away.get(earlier.worker, ()), away.get(later.worker, ())
    if later.attempt > earlier.attempt:
        for begin, end, parts in merged(first):
            if end >= earlier.time - SLACK and min(end, later.time) - begin >= times.shortest_expiry:
                before = [part for part in parts if part.begin <= later.time]
                return Again(earlier, later, Rule.SESSION_LOST, max(before, key=lambda part: part.seconds).fault)
        return Again(earlier, later)
    for absence in second if earlier.worker != later.worker else ():
        if absence.begin <= earlier.time + SLACK and absence.begin <= later.time <= absence.last_beginning:
            return Again(earlier, later, Rule.BEGAN_LATE, absence.fault)
    if later.attempt == earlier.attempt:
        for absence in first:
            is_unheard = absence.begin - UNHEARD <= earlier.time <= absence.end + UNHEARD
            if is_unheard and absence.begin <= later.time:
                return Again(earlier, later, Rule.NOT_ACKNOWLEDGED, absence.fault)
    return Again(earlier, later)
