"""Calls that wait for a run: whoever holds it, or gets it next, is to look for them."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine import endings
from stepwell_server.engine.change import Change
from stepwell_server.engine.reported import NewStep, UpdateOutcome, identity
from stepwell_server.model.run_calls import acceptance_of
from stepwell_server.model.runs import RunRef, pack_details, unpack_details


class CallRun(msgspec.Struct, frozen=True, gc=False):
    """An update waits in `run_calls`: a run that nobody holds becomes due, and its next grant looks there.

    Refuses with RUN_TERMINAL, RUN_DRIVEN, RUN_PAUSED.
    """

    ref: RunRef

    def wants(self) -> None:
        return None

    def decide(self, change: Change) -> bool:
        run = change.open
        if run.driven:
            raise errors.RunDriven(run_id=run.run_id)
        if run.pause_reason is not None:
            raise errors.RunPaused(run_id=run.run_id, pause_reason=run.pause_reason)
        details = unpack_details(run.details)
        if not details.called:
            change.update(details=pack_details(replace(details, called=True)))
        if run.session_id is not None:
            # A worker that keeps nothing gets it once more; one that does is told.
            change.update(dirty=True)
        else:
            endings.wake(change)
        change.bump()
        return True


def accepted_before(steps: list[NewStep]) -> list[tuple[str, str, int, str]]:
    """The acceptances that outcomes among new steps need, where they are not among them."""
    needed = [acceptance_of(step.key) for step in steps if isinstance(step.body, UpdateOutcome)]
    if not needed:
        return []
    new = {identity(step) for step in steps}
    return [each for each in needed if each not in new]


def refuse_unaccepted(change: Change, steps: list[NewStep]) -> None:
    """Refuses outcomes of updates that were never accepted."""
    for needed in accepted_before(steps):
        if change.step_named(needed) is None:
            raise errors.InvalidField(field="steps", problem=f"holds an outcome of update {needed[3]!r}, not accepted")
