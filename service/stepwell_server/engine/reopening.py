"""Opening a run again that has ended."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine import carrying, starts
from stepwell_server.engine.closing import open_run
from stepwell_server.model.runs import Phase, pack_details, unpack_details

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from stepwell_server.engine.change import Change
    from stepwell_server.model.runs import ClosedRun


def ended(change: Change, phases: AbstractSet[Phase], wanted: str) -> ClosedRun:
    """The ended run, if it may be opened again.

    Refuses with RUN_DRIVEN, RUN_CONTINUED, RUN_PURGED, or RUN_PHASE_CONFLICT if its phase is none of these.
    """
    closed = change.closed_run
    if closed is None or change.run is not None or change.phase not in phases:
        raise errors.RunPhaseConflict(run_id=change.run_id, phase=change.phase.name, wanted=wanted)
    refuse_driven(change)
    details = unpack_details(closed.details)
    if details.is_purged:
        raise errors.RunPurged(run_id=closed.run_id, archive_uri=details.archive_uri)
    continued = details.continued_run_id
    if continued:
        raise errors.RunContinued(run_id=closed.run_id, continued_run_id=continued)
    return closed


def refuse_driven(change: Change) -> None:
    """Refuses a run that its engine moves."""
    run = change.run or change.closed_run
    if run is not None and run.driven:
        raise errors.RunDriven(run_id=run.run_id)


def reopen(change: Change, closed: ClosedRun, namespace: str) -> None:
    """Opens it: its name is its own again, its times count from now. Refuses with WORKFLOW_ID_IN_USE."""
    run = open_run(closed, change.now)
    if change.births is None:
        raise AssertionError("a batch knows names")
    change.births.take_again(run, namespace)
    change.reopen(run)
    span = starts.span_of(closed)
    deadline = None if span is None else change.now + timedelta(seconds=span)
    details = replace(
        unpack_details(closed.details),
        reopen_time=change.now,
        begin_time=None,
        attempt=1,
        failure_event=0,
        closing_event=0,
        pause_details="",
        pause_time=None,
        pause_event=0,
        deadline=None,
        timed_out_time=None,
    )
    change.update(deadline=deadline, details=pack_details(details))
    change.update(wake_time=starts.next_look(change))
    carrying.ask_again(change)
