"""What repairs make of a run's record. Pure: steps in, steps out.

All repairs of a request speak of the record as it was before any of them. A step that is renamed or skipped changes
which of their name the others of its branch are: they are numbered anew, as the mended code will number its calls.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine.cuts import CANCEL_MARK
from stepwell_server.engine.mending import StepName
from stepwell_server.model.races import LOST, WINNER
from stepwell_server.model.run_calls import ACCEPTANCE, OUTCOME, UPDATES
from stepwell_server.model.steps import ClosedStep, Step, fingerprint_of, pack_step_details, unpack_step_details

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

AnyStep = Step | ClosedStep
RESERVED = frozenset({ACCEPTANCE, OUTCOME, CANCEL_MARK, WINNER, LOST})
"""Names that mean something to the service, and stay what they are."""


class Chosen(msgspec.Struct, frozen=True, gc=False):
    """Which recorded steps are meant: a single one, or every one of a name; of that kind only, if one is given."""

    step: StepName | None
    every: str = ""
    kind: int = 0

    def __str__(self) -> str:
        """As the caller named them."""
        return self.every if self.step is None else str(self.step)

    def find(self, steps: list[AnyStep]) -> list[AnyStep]:
        """Those among the steps."""
        if self.step is None:
            found: Iterable[AnyStep | None] = (each for each in steps if each.name == self.every)
        else:
            found = (self.step.find(steps),)
        return [each for each in found if each is not None and self.kind in {0, each.kind}]


class Rename(msgspec.Struct, frozen=True, gc=False):
    """The code asks under another name now (empty: the same), or with another fingerprint (None: the same)."""

    chosen: Chosen
    name: str = ""
    fingerprint: bytes | None = None

    def of(self, step: AnyStep) -> AnyStep:
        """The step as it is to be, but for its occurrence."""
        renamed = replace(step, name=self.name or step.name)
        if self.fingerprint is None or self.fingerprint == fingerprint_of(step):
            return renamed
        details = replace(unpack_step_details(step.details), fingerprint=self.fingerprint)
        return replace(renamed, details=pack_step_details(details))


class Skip(msgspec.Struct, frozen=True, gc=False):
    """The code does not make these calls any more: they go from the record."""

    chosen: Chosen


class Accept(msgspec.Struct, frozen=True, gc=False):
    """The record, as it is after the other repairs, is right: the code was mended to fit it."""


Repair = Rename | Skip | Accept


class Plan(NamedTuple):
    """What becomes of the record. `changed` are pairs of before and after, `renamed` those of them asked for."""

    skipped: list[AnyStep]
    changed: list[tuple[AnyStep, AnyStep]]
    renamed: dict[int, AnyStep]

    @property
    def scopes(self) -> dict[str, None]:
        """The branches whose order is another now."""
        return dict.fromkeys(step.scope for step in (*self.skipped, *(before for before, _ in self.changed)))

    def after(self, steps: list[AnyStep]) -> list[AnyStep]:
        """The record as it will be."""
        gone = {step.ordinal for step in self.skipped}
        changed = {after.ordinal: after for _, after in self.changed}
        return [changed.get(step.ordinal, step) for step in steps if step.ordinal not in gone]


def plan(run_id: UUID, steps: list[AnyStep], repairs: Sequence[Repair]) -> Plan:
    """What the repairs come to. Refuses with STEP_NOT_FOUND, and INVALID_FIELD where they contradict each other."""
    by: dict[int, int] = {}  # of each step that is meant, which repair means it
    for place, repair in enumerate(repairs):
        if isinstance(repair, Accept):
            continue
        found = repair.chosen.find(steps)
        if not found:
            raise errors.StepNotFound(run_id=run_id, step=str(repair.chosen))
        for step in found:
            _check(step, place, repair, by)
            by[step.ordinal] = place
    skipped = [step for step in steps if step.ordinal in by and isinstance(repairs[by[step.ordinal]], Skip)]
    renamed = {
        step.ordinal: repair.of(step)
        for step in steps
        if step.ordinal in by and isinstance(repair := repairs[by[step.ordinal]], Rename)
    }
    made = Plan(skipped, _changed(steps, skipped, renamed), renamed)
    _refuse_twins(made.after(steps), by)
    return made


def _check(step: AnyStep, place: int, repair: Rename | Skip, by: dict[int, int]) -> None:
    if step.scope == UPDATES:
        raise errors.InvalidField(
            field=f"repairs[{place}]", problem=f"means step {step.ordinal} of branch 0, which tells of updates"
        )
    if step.ordinal in by:
        raise errors.InvalidField(
            field=f"repairs[{place}]", problem=f"means step {step.ordinal}, as repairs[{by[step.ordinal]}] does"
        )
    if isinstance(repair, Rename) and RESERVED & {step.name, repair.name}:
        raise errors.InvalidField(
            field=f"repairs[{place}].rename", problem="is about a mark that workers make: skip it, if it is too much"
        )
    if isinstance(repair, Rename) and repair.of(step) == step:
        raise errors.InvalidField(
            field=f"repairs[{place}].rename", problem=f"changes nothing of step {step.ordinal}, {step.name!r}"
        )


def _changed(
    steps: list[AnyStep], skipped: list[AnyStep], renamed: dict[int, AnyStep]
) -> list[tuple[AnyStep, AnyStep]]:
    """All steps that are renamed, or number otherwise among those of their name."""
    gone = {step.ordinal for step in skipped}
    touched = {(step.scope, step.name) for step in steps if step.ordinal in gone or step.ordinal in renamed}
    touched |= {(step.scope, step.name) for step in renamed.values()}
    counts: Counter[tuple[str, str]] = Counter()
    changed: list[tuple[AnyStep, AnyStep]] = []
    for before in steps:
        if before.ordinal in gone:
            continue
        after = renamed.get(before.ordinal, before)
        line = (after.scope, after.name)
        if line in touched and not after.key:
            after = replace(after, occurrence=counts[line])
            counts[line] += 1
        if after != before:
            changed.append((before, after))
    return changed


def _refuse_twins(steps: list[AnyStep], by: dict[int, int]) -> None:
    """A key is unique among the calls of a name, so two of them may not come to bear one name."""
    seen: dict[tuple[str, str, int, str], AnyStep] = {}
    for step in steps:
        other = seen.setdefault(step.identity, step)
        if other is not step:
            place = by[step.ordinal] if step.ordinal in by else by[other.ordinal]
            raise errors.InvalidField(
                field=f"repairs[{place}].rename.new_name",
                problem=f"is {step.name!r}, which steps {other.ordinal} and {step.ordinal} would bear with one key",
            )
