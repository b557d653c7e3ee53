"""Which steps go when some are to be done anew. Pure: steps in, steps out.

Branches are independent of each other: what was done in one stays when a step of another goes. Within a branch all goes
that came after the step, since it may have come of it: later calls of the branch itself, branches that it opened later,
and what the branches around it did on their own after that step. So of each branch a beginning stays, whose count and
hash are right, and what stays does not depend on what goes.

An update comes from outside: no branch is around it. It goes with all that it did if it was accepted when the run's own
line had gone on from a step that goes. When a step of an update goes, so does the update's outcome.

When who won a race goes, its losers go on from where they gave up.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from stepwell_server.engine import races
from stepwell_server.model.run_calls import ACCEPTANCE, OUTCOME, UPDATES
from stepwell_server.model.steps import ClosedStep, Kind, Step, StepState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

AnyStep = Step | ClosedStep
CANCEL_MARK = "__cancelled"
"""The name of the marker under which a branch notes that it saw the run's cancellation; docs/protocol.md."""
_NEVER = 1 << 62


def around(scope: str) -> Iterator[str]:
    """The branches around one, from the inside; the run's own line last. An update's branch has none around it."""
    is_updates = scope.split("/", 1)[0] == UPDATES
    while scope:
        scope, _, _ = scope.rpartition("/")
        if is_updates and scope in {"", UPDATES}:
            return
        yield scope


def update_of(scope: str) -> str:
    """The branch of the update that a branch is part of, or nothing."""
    first, _, rest = scope.partition("/")
    return f"{UPDATES}/{rest.split('/', 1)[0]}" if first == UPDATES and rest else ""


class Lines:
    """The branches of a run's record."""

    def __init__(self, steps: Sequence[AnyStep]) -> None:
        self.steps = steps
        self._own: dict[str, list[int]] = {}
        self._begun: dict[str, int] = {}  # of each branch, with all that is in it, the first ordinal
        self._inside: dict[str, list[str]] = {}  # the branches that a branch opened, in the order in which they began
        for step in steps:
            self._own.setdefault(step.scope, []).append(step.ordinal)
            for scope in (step.scope, *around(step.scope)):
                outer = next(around(scope), None)
                if scope not in self._begun and outer is not None:
                    self._inside.setdefault(outer, []).append(scope)
                self._begun.setdefault(scope, step.ordinal)
        accepted = [step for step in steps if step.scope == UPDATES and step.name == ACCEPTANCE]
        # By the branch of each update: its acceptance.
        self._updates = {f"{UPDATES}/{number}": step for number, step in enumerate(accepted, 1)}
        self._winners = races.winners(steps)
        self._outcomes = {step.key: step for step in steps if step.scope == UPDATES and step.name == OUTCOME}

    def next_own(self, scope: str, ordinal: int) -> int | None:
        """The first step of the branch's own after an ordinal."""
        own = self._own.get(scope, ())
        place = bisect_right(own, ordinal)
        return own[place] if place < len(own) else None

    def outcome(self, scope: str) -> AnyStep | None:
        """What the update that a branch is part of came to, or None."""
        accepted = self._updates.get(update_of(scope))
        return self._outcomes.get(accepted.key) if accepted is not None else None

    def is_passed(self, step: AnyStep) -> bool:
        """Whether the code went on from a step: in its branch, in branches opened after it, or around it."""
        inside = self._inside.get(step.scope)
        if inside and self._begun[inside[-1]] > step.ordinal:
            return True
        if self.outcome(step.scope) is not None:
            return True
        return any(self._went_on(scope, step) for scope in (step.scope, *around(step.scope)))

    def _went_on(self, scope: str, step: AnyStep) -> bool:
        """Whether a branch has own steps after one. That the one's branch won a race is not yet what came of it."""
        after = self.next_own(scope, step.ordinal)
        won = self._winners.get(after or 0)
        if after is not None and won is not None and races.is_within(step.scope, won):
            after = self.next_own(scope, after)
        return after is not None

    def cut(self, places: Iterable[AnyStep]) -> list[AnyStep]:
        """These steps, and all that may have come of them."""
        every = list(places)
        gone = self._cut(every)
        while more := races.reopened(self.steps, gone):
            every += more
            gone = self._cut(every)
        return gone

    def _cut(self, places: Iterable[AnyStep]) -> list[AnyStep]:
        first: dict[str, int] = {}
        singles: set[int] = set()
        for step in places:
            if step.scope == UPDATES:
                singles.add(step.ordinal)
                continue
            first[step.scope] = min(first.get(step.scope, _NEVER), step.ordinal)
            for scope in around(step.scope):
                after = self.next_own(scope, step.ordinal)
                if after is not None:
                    first[scope] = min(first.get(scope, _NEVER), after)
            outcome = self.outcome(step.scope)
            singles |= {outcome.ordinal} if outcome is not None else set()
        gone = {
            inner
            for scope, ordinal in first.items()
            for inner in self._inside.get(scope, ())
            if self._begun[inner] > ordinal
        }
        went_on = self.next_own("", first[""]) if "" in first else None
        for scope, accepted in self._updates.items():
            if went_on is not None and accepted.ordinal > went_on:
                outcome = self._outcomes.get(accepted.key)
                singles |= {accepted.ordinal} | ({outcome.ordinal} if outcome is not None else set())
                gone.add(scope)
        return [
            step
            for step in self.steps
            if step.ordinal in singles
            or step.ordinal >= first.get(step.scope, _NEVER)
            or gone.intersection((step.scope, *around(step.scope)))
        ]


def failed(lines: Lines) -> list[AnyStep]:
    """The failed steps that the code did not get past. An update that has failed has come to its outcome."""
    return [
        step
        for step in lines.steps
        if step.state == StepState.FAILED and step.scope != UPDATES and not lines.is_passed(step)
    ]


def cut_short(lines: Lines, closing_event: int) -> list[AnyStep]:
    """The steps that were open when their run ended."""
    return [
        step
        for step in lines.steps
        if closing_event and step.state == StepState.CANCELLED and isinstance(step, ClosedStep)
        if step.end_event > closing_event
    ]


def cancelled(lines: Lines, cancel_time: datetime | None) -> list[AnyStep]:
    """Where the code saw that its run was to be cancelled: the marks of it, and what it gave up since."""
    if cancel_time is None:
        return []
    return [
        step
        for step in lines.steps
        if (step.kind == Kind.MARKER and step.name == CANCEL_MARK)
        or (isinstance(step, ClosedStep) and step.state == StepState.CANCELLED and step.end_time >= cancel_time)
    ]
