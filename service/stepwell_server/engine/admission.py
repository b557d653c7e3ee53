"""What a line of runs comes to: one is given a slot, another is asked to give way."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from stepwell_server.engine import endings
from stepwell_server.engine.change import Change
from stepwell_server.engine.concurrency import SLOT, line_of, slot_of
from stepwell_server.engine.runs import request_cancel
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.concurrency import Line, SlotState
from stepwell_server.model.events import EventType
from stepwell_server.model.runs import RunRef, pack_details, unpack_details


class AdmitRun(msgspec.Struct, frozen=True, gc=False):
    """Gives a waiting run a slot, if one is free. Answers False only if none is.

    Whoever decides this has the lock of the line, and counts anew: two that mean the same slot cannot both have it.
    """

    ref: RunRef
    line: Line

    def wants(self) -> Missing:
        return Missing(sides=[SLOT], lines=[self.line])

    def decide(self, change: Change) -> bool:
        run = change.run
        details = unpack_details(run.details if run is not None else None)
        if run is None or details.concurrency is None or details.slot != SlotState.AWAITED:
            return True
        row = slot_of(change)
        if row is None or change.births is None:
            raise AssertionError("a run that waits for a slot has a row that says so")
        if not change.births.take_slot(line_of(run.namespace_id, details.concurrency), row.key):
            return False
        facts = {"limit": row.name, "key": row.key}
        if change.has_room:
            change.event(EventType.RUN_ADMITTED, facts=facts)
        change.update(details=pack_details(replace(details, slot=SlotState.HELD)))
        change.bump()
        change.put_side(SLOT, replace(row, admit_time=change.now))
        if change.open.pause_reason is None:
            endings.enqueue_run(change)
        return True


class GiveWay(msgspec.Struct, frozen=True, gc=False):
    """Asks a run to cancel for the sake of others in its line. Answers whether anything came of it."""

    ref: RunRef
    reason: str

    def wants(self) -> Missing:
        return Missing(sides=[SLOT], open_steps=True)

    def decide(self, change: Change) -> bool:
        if change.run is None:
            return False
        row = slot_of(change)
        if row is None or row.gives_way:
            return False
        change.put_side(SLOT, replace(row, gives_way=True))
        if change.run.cancel_time is None:
            request_cancel(change, self.reason)
        else:
            change.bump()
        return True
