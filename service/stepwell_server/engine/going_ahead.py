"""Code that went on with what its worker's own activity came to, before it was told that this is recorded.

What it did then counts only if that very result stands in the record, and if nothing else can have ended meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server import errors
from stepwell_server.model.steps import ClosedStep, Kind, StepState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_server.engine.change import Change
    from stepwell_server.engine.reported import Result


def require_recorded(change: Change, results: Sequence[Result]) -> None:
    """Refuses with RESULT_NOT_RECORDED unless each step was completed under that very grant."""
    for result in results:
        step = change.step(result.ordinal)
        is_recorded = (
            isinstance(step, ClosedStep)
            and step.kind == Kind.ACTIVITY
            and step.state == StepState.COMPLETED
            and step.grants == result.token
        )
        if not is_recorded:
            raise errors.ResultNotRecorded(run_id=change.run_id, ordinal=result.ordinal)


def require_alone(change: Change, results: Sequence[Result]) -> None:
    """Refuses with RESULT_NOT_RECORDED if the code waited for more: what ends first must be what it hears first."""
    if results and change.open.open_steps:
        raise errors.ResultNotRecorded(run_id=change.run_id, ordinal=results[0].ordinal)


def withhold(change: Change, results: Sequence[Result]) -> None:
    """The code knows of these ends. Comes last: what is withheld is not given back by an undo."""
    known = {result.ordinal for result in results}
    change.news.ended = [each for each in change.news.ended if each.step.ordinal not in known]
