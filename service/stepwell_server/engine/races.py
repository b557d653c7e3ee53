"""Races in a run's record, when some of it is to be done anew. Pure: steps in, steps out.

Where a race's winner goes from the record, the race is open again: its losers must not find that they have lost it, nor
what they gave up for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.model.races import LOST, WINNER
from stepwell_server.model.steps import ClosedStep, Kind, Step, StepState, unpack_step_details

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

AnyStep = Step | ClosedStep


def _is_mark(step: AnyStep, name: str) -> bool:
    return step.kind == Kind.MARKER and step.name == name


def _path(scope: str, number: int) -> str:
    return f"{scope}/{number}" if scope else str(number)


def is_within(scope: str, branch: str) -> bool:
    """Whether a branch is that one or inside of it."""
    return scope == branch or scope.startswith(branch + "/")


def winners(steps: Iterable[AnyStep]) -> dict[int, str]:
    """The paths of branches that won races, by the ordinals of the markers that say so."""
    return {
        step.ordinal: _path(step.scope, unpack_step_details(step.details).winner)
        for step in steps
        if _is_mark(step, WINNER)
    }


def reopened(steps: Sequence[AnyStep], gone: Iterable[AnyStep]) -> list[AnyStep]:
    """Where losers of races whose winners go begin anew, as far as that does not go yet.

    That is the call that a branch gave up when it heard of its loss, or else the mark of that; or a call that was given
    up for it and whose branch has yet to hear so.
    """
    going = {step.ordinal: step for step in gone}
    first: dict[str, int] = {}  # of the races that go, by the branch that races: what goes in it, goes to its end
    since: dict[str, int] = {}
    for step in going.values():
        if _is_mark(step, WINNER) and isinstance(step, ClosedStep):
            first[step.scope] = min(int(step.key), first.get(step.scope, int(step.key)))
            since[step.scope] = min(step.end_event, since.get(step.scope, step.end_event))
    if not first:
        return []
    last: dict[str, AnyStep] = {}
    places: list[AnyStep] = []
    for step in steps:
        if _is_mark(step, LOST):
            racing, _, number = step.key.rpartition("/")
            if racing in first and int(number) >= first[racing]:
                before = last.get(step.scope)
                place = before if before is not None and before.state == StepState.CANCELLED else step
                places += [place] if place.ordinal not in going else []
        last[step.scope] = step
    unheard = (step for step in last.values() if step.state == StepState.CANCELLED and step.ordinal not in going)
    places += [
        step
        for step in unheard
        if isinstance(step, ClosedStep)
        and any(_number(step.scope, racing) >= first[racing] and step.end_event > since[racing] for racing in first)
    ]
    return places


def _number(scope: str, racing: str) -> int:
    """Which branch of the one that races another is in; 0 if in none."""
    if not racing:
        return int(scope.partition("/")[0] or 0)
    return int(scope[len(racing) + 1 :].partition("/")[0] or 0) if is_within(scope, racing) else 0
