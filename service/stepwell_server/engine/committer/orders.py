"""What a committer takes in: commands of a run, starts, and claims of tasks."""

from __future__ import annotations

from stepwell_server.engine.change import Change
from stepwell_server.engine.commands import Command
from stepwell_server.engine.committer.protocols import ActivityClaim, Claim
from stepwell_server.engine.signal_with_start import SignalWithStartRun
from stepwell_server.engine.starts import StartRun
from stepwell_server.model.runs import RunRef

Birth = StartRun | SignalWithStartRun
AnyClaim = Claim | ActivityClaim
Order = Command | Birth | AnyClaim


def label_of(order: Order) -> str:
    """How the caller named the run that a command is about."""
    start, ref = start_of(order), ref_of(order)
    if start is not None:
        return start.new.workflow_id or str(start.new.run_id)
    return str(ref.label) if ref is not None else ""


def ref_of(order: Order) -> RunRef | None:
    return None if isinstance(order, Birth | AnyClaim) else order.ref


def start_of(order: Order) -> StartRun | None:
    if isinstance(order, SignalWithStartRun):
        return order.start
    return order if isinstance(order, StartRun) else None


def may_see(ref: RunRef, change: Change | None) -> bool:
    """Whether the run is in the namespace that was named: nothing crosses it."""
    if change is None:
        return True
    run = change.run or change.closed_run
    return run is not None and (ref.namespace_id is None or run.namespace_id == ref.namespace_id)
