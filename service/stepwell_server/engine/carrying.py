"""What a run that continues as new leaves to its successor: signals that nobody took, and a request to cancel.

Signals keep their order and their ids. A few go in the batch that ends the run. Many go by mail, a slice at a time, to
a successor that does not begin until it has them all: what is sent to it meanwhile stands behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from stepwell_server.engine import endings, starts
from stepwell_server.model.events import EventType
from stepwell_server.model.mail import Letter, Subject
from stepwell_server.model.runs import pack_details, unpack_details

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change
    from stepwell_server.engine.signal_change import Slice

_NEXT_SLICE = Letter(Subject.CARRY_SIGNALS)


def hand_over(change: Change, successor: Change, left: Slice) -> None:
    """Gives the successor what it is to take over."""
    run = change.open
    successor.update(last_signal=run.last_signal)
    if left.has_more:
        details = replace(unpack_details(run.details), keeps_signals=True)
        change.update(details=pack_details(details))
        change.post(successor.run_key, _NEXT_SLICE)
    else:
        for signal in left.signals:
            successor.carry_signal(signal)
    if run.cancel_time is not None:
        successor.event(EventType.RUN_CANCEL_REQUESTED, facts={"reason": run.cancel_reason or ""})
        successor.update(cancel_reason=run.cancel_reason, cancel_time=change.now)


def ask_again(change: Change) -> None:
    """Of a run that ended before it had all signals, and is opened again: what is left of them may yet come."""
    if unpack_details(change.open.details).carried_from:
        change.post(change.run_key, _NEXT_SLICE)


def take_over(change: Change) -> bool:
    """Takes a slice of signals from the run before; with the last of them the run may begin."""
    if change.run is None:
        from_key = unpack_details(change.closed_run.details if change.closed_run is not None else None).carried_from
        change.emptied.append(from_key)
        return False
    details = unpack_details(change.run.details)
    if not details.carried_from:
        return False
    signals, has_more = change.left_signals(details.carried_from)
    for signal in signals:
        change.carry_signal(signal)
    if has_more:
        change.post(change.run_key, _NEXT_SLICE)
        return True
    change.emptied.append(details.carried_from)
    change.update(details=pack_details(replace(details, carried_from=0)))
    change.bump()
    if change.open.pause_reason is None and not starts.begins_later(change):
        endings.enqueue_run(change)
    return True
