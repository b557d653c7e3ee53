"""Concurrency limits: how a run joins its line, keeps its slot and leaves it, and who of a line is next.

A run that may not begin for want of a slot has no task. It gets one with its slot, by a command of its own: see
`admission`. Its row in `concurrency_slots` goes with its end, in the same transaction, so that no slot is ever lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from stepwell_server.model.concurrency import ConcurrencySlot, Line, SlotState, Strategy
from stepwell_server.model.runs import pack_details, unpack_details

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change
    from stepwell_server.model.concurrency import Concurrency, LineView
    from stepwell_server.model.driven import SideKey

SLOT: SideKey = (ConcurrencySlot, 0)


class Plan(NamedTuple):
    """Who of a line gets a slot, and who is asked to cancel, by their keys."""

    admit: list[int]
    give_way: list[int]


def line_of(namespace_id: int, limit: Concurrency) -> Line:
    """With whom a run shares slots."""
    return Line(namespace_id, limit.name, "" if limit.strategy == Strategy.ROUND_ROBIN else limit.key)


def may_go(change: Change) -> bool:
    """Whether a worker may have the run now. One that needs a slot first joins its line."""
    run = change.open
    details = unpack_details(run.details)
    if details.concurrency is None or details.slot == SlotState.HELD:
        return True
    if details.slot == SlotState.NONE:
        _join(change, details.concurrency)
    return False


def _join(change: Change, limit: Concurrency) -> None:
    run = change.open
    change.update(details=pack_details(replace(unpack_details(run.details), slot=SlotState.AWAITED)))
    row = ConcurrencySlot(
        run.run_key, *line_of(run.namespace_id, limit), limit.key, limit.maximum_runs, limit.strategy, change.now
    )
    change.put_side(SLOT, row)


def leave(change: Change) -> None:
    """The run ends: its slot, or its place in the line, is free."""
    details = unpack_details(change.open.details)
    if details.slot != SlotState.NONE:
        change.put_side(SLOT, None)
        change.update(details=pack_details(replace(details, slot=SlotState.NONE)))


def hand_on(change: Change, successor: Change) -> None:
    """The run that continues this one has its slot, as if it had come when this one did."""
    row = slot_of(change)
    if row is not None:
        successor.put_side(SLOT, replace(row, run_key=successor.run_key))


def slot_of(change: Change) -> ConcurrencySlot | None:
    """The run's row, or None if it neither waits for a slot nor has one. Asks for it if it is not loaded."""
    if unpack_details(change.open.details).slot == SlotState.NONE:
        return None
    row = change.side(SLOT)
    return row if isinstance(row, ConcurrencySlot) else None


def line_left(change: Change) -> Line | None:
    """The line of a run whose slot or place in it changed in this batch, so that another may be next."""
    if SLOT not in change.touched_sides:
        return None
    run = change.run or change.closed_run
    limit = unpack_details(run.details).concurrency if run is not None else None
    return line_of(change.namespace_id, limit) if limit is not None else None


def plan(view: LineView) -> Plan:
    """Who is next, by the strategy of the latest in the line."""
    waiting = [key for key, _ in view.waiting]
    if view.strategy == Strategy.CANCEL_NEWEST:
        rest = [key for key, gives_way in view.waiting[view.free :] if not gives_way]
        return Plan(waiting[: view.free], rest)
    if view.strategy == Strategy.CANCEL_IN_PROGRESS:
        asked = [key for key, gives_way in view.waiting if gives_way]
        older = {*view.superseded, *asked}
        # Those that were told to give way, and have yet to clean up, need a slot for that, too.
        ordered = [key for key in waiting if key not in older] + asked
        return Plan(ordered[: view.free], view.superseded)
    return Plan(waiting[: view.free], [])
