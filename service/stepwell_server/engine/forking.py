"""Forking a run: a new one whose record begins with what another had recorded before a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server import errors
from stepwell_server.engine import cuts
from stepwell_server.engine.copying import Copied, CopiedStep
from stepwell_server.engine.cuts import Lines
from stepwell_server.engine.order import chain
from stepwell_server.model.runs import EMPTY_HASH
from stepwell_server.model.steps import ClosedStep, Step, fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from uuid import UUID

    from stepwell_server.engine.mending import StepName
    from stepwell_server.model.topics import TopicPosition

AnyStep = Step | ClosedStep
MOST_STEPS = 2_000
"""How many steps a fork copies at most."""


def before(steps: Sequence[AnyStep], target: StepName, run_id: UUID, cancel_time: datetime | None) -> list[ClosedStep]:
    """Which steps of a record a fork begins with, by ordinal: those before a step, and of each branch a beginning.

    What is open, with all that may have come of it, is not among them, nor what a request to cancel left. Refuses with
    STEP_NOT_FOUND or LIMIT_EXCEEDED.
    """
    found = target.find(list(steps))
    if found is None:
        raise errors.StepNotFound(run_id=run_id, step=str(target))
    lines = Lines(steps)
    places = [step for step in steps if step.ordinal >= found.ordinal or isinstance(step, Step)]
    gone = {step.ordinal for step in lines.cut([*places, *cuts.cancelled(lines, cancel_time)])}
    kept = [step for step in steps if step.ordinal not in gone and isinstance(step, ClosedStep)]
    if len(kept) > MOST_STEPS:
        raise errors.LimitExceeded(limit="fork_steps", value=len(kept), maximum=MOST_STEPS)
    return kept


def copied_of(steps: Iterable[CopiedStep], had: Iterable[TopicPosition]) -> Copied:
    """The steps with their branches counted and hashed, and what was had of topics with them."""
    kept = tuple(steps)
    lines: dict[str, tuple[int, bytes]] = {}
    for each in kept:
        step = each.step
        count, hash_ = lines.get(step.scope, (0, EMPTY_HASH))
        lines[step.scope] = (count + 1, chain(hash_, step.kind, step.name, fingerprint_of(step)))
    return Copied(kept, tuple((scope, count, hash_) for scope, (count, hash_) in lines.items()), tuple(had))
