"""Showing where code and record differ. The decision is made without: by counts and hashes, see `order`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server import errors
from stepwell_server.engine.order import chain
from stepwell_server.model.order import Difference, MadeCall, RecordedCall
from stepwell_server.model.runs import EMPTY_HASH
from stepwell_server.model.steps import ClosedStep, Kind, Step, fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_server.engine.change import Change
    from stepwell_server.engine.order import Changed, Mismatch

AROUND = 5
"""How many calls are shown before and after the first that differs."""
_MOST_BRANCHES = 8
_AnyStep = Step | ClosedStep


def describe(change: Change, changed: Changed) -> tuple[errors.StepOrderChanged, tuple[Difference, ...]]:
    """The refusal for the worker, and the differences for people. Asks for all of the run's steps."""
    lines = recorded_lines(change)
    shown = changed.mismatches[:_MOST_BRANCHES]
    differences = tuple(_difference(each, lines.get(each.claim.scope, [])) for each in shown)
    if not differences:
        scope, recorded, got = "(all)", f"{changed.recorded} calls", f"{changed.made} calls"
    else:
        scope, recorded, got = _in_words(differences[0])
    return errors.StepOrderChanged(run_id=change.run_id, scope=scope, recorded=recorded, got=got), differences


def recorded_lines(change: Change) -> dict[str, list[_AnyStep]]:
    """The recorded steps of each branch in the order of their calls. Asks for those that are not loaded."""
    lines: dict[str, list[_AnyStep]] = {}
    for step in change.every_step():
        lines.setdefault(step.scope, []).append(step)
    return lines


def _difference(mismatch: Mismatch, line: list[_AnyStep]) -> Difference:
    claim = mismatch.claim
    place, made = claim.place, claim.made
    if place is None or place > len(line):
        place, made = _inferred(mismatch, line)
    centre = min(claim.count if place is None else place, len(line))
    first = max(0, centre - AROUND)
    return Difference(
        scope=claim.scope,
        place=place,
        first=first,
        recorded_count=len(line),
        recorded=tuple(
            RecordedCall(step.ordinal, step.kind, step.name, step.occurrence, step.key)
            for step in line[first : centre + AROUND + 1]
        ),
        made=made[: AROUND + 1],
    )


def _inferred(mismatch: Mismatch, line: list[_AnyStep]) -> tuple[int | None, tuple[MadeCall, ...]]:
    """What follows from the hash: whether the calls before the new ones agree, and then how many of the new ones do."""
    claim, fresh = mismatch.claim, mismatch.fresh
    made = tuple(MadeCall(step.kind, step.name) for step in fresh)
    hash_ = EMPTY_HASH
    for step in line[: claim.count]:
        hash_ = chain(hash_, step.kind, step.name, fingerprint_of(step))
    if claim.count > len(line) or hash_ != claim.hash:
        return None, made
    agreeing = 0
    for new, step in zip(fresh, line[claim.count :], strict=False):
        if (new.kind, new.name, new.fingerprint) != (step.kind, step.name, fingerprint_of(step)):
            break
        agreeing += 1
    return claim.count + agreeing, made[agreeing:]


def _in_words(found: Difference) -> tuple[str, str, str]:
    if found.place is None:
        scope = found.scope or "(root)"
        return scope, f"{found.recorded_count} calls", f"other ones, then {_listed(found.made)}"
    return in_words(found.scope, found.place, found.recorded[found.place - found.first :], found.made)


def in_words(
    scope: str, place: int, recorded: Sequence[MadeCall | RecordedCall], made: Sequence[MadeCall]
) -> tuple[str, str, str]:
    """The branch, what it has recorded after so many calls that agree, and what the code calls there."""
    recorded, made = recorded[: AROUND + 1], made[: AROUND + 1]
    return scope or "(root)", f"after {place} calls {_listed(recorded)}", _listed(made)


def _listed(calls: Sequence[MadeCall | RecordedCall]) -> str:
    return ", ".join(f"{Kind(call.kind).name} {call.name}" for call in calls) or "no further call"
