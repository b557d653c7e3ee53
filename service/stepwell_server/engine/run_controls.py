"""What controls a driven run beside its phase: what set it off, its deadline, and requests to stop.

A request to stop ends nothing: the run's engine looks for it before it begins a step, and ends the run.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from msgspec.structs import replace

from stepwell_server.engine.driven import driven, held, set_details
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.driven import RunOrigin
from stepwell_server.model.events import EventType
from stepwell_server.model.runs import RunRef, unpack_details

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change

ORIGIN = (RunOrigin, 0)
TIMED_OUT = "Run timed out."


class Stopped(msgspec.Struct, frozen=True, gc=False):
    """The answer to a request to stop: whether it was the first, and the phase, which stays."""

    first: bool
    phase: int


class ConfigureRun(msgspec.Struct, frozen=True, gc=False):
    """Notes what set a run off, and when its time is over; None leaves that as it was created."""

    ref: RunRef
    trigger_key: str
    idempotency_key: str
    deadline: datetime | None
    token: int

    def wants(self) -> Missing:
        return Missing(sides=[ORIGIN])

    def decide(self, change: Change) -> UUID:
        run = held(change, self.token)
        before = change.side(ORIGIN)
        origin = before if isinstance(before, RunOrigin) else RunOrigin(run.run_key, run.namespace_id)
        origin = replace(origin, trigger_key=self.trigger_key, idempotency_key=self.idempotency_key)
        change.put_side(ORIGIN, origin)
        set_details(change, deadline=self.deadline)
        change.update(update_time=change.now)
        change.bump()
        return run.run_id


class RequestRunCancel(msgspec.Struct, frozen=True, gc=False):
    """Asks for a run to be cancelled. The first request counts."""

    ref: RunRef
    reason: str

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: Change) -> Stopped:
        if change.run is None or driven(change).cancel_time is not None:
            return Stopped(first=False, phase=change.phase)
        _ask(change, self.reason)
        return Stopped(first=True, phase=change.phase)


class MarkRunTimedOut(msgspec.Struct, frozen=True, gc=False):
    """Notes that a run's time is over. The first note counts; the reason of an earlier request to cancel stays."""

    ref: RunRef
    reason: str

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: Change) -> Stopped:
        if change.run is None or unpack_details(driven(change).details).timed_out_time is not None:
            return Stopped(first=False, phase=change.phase)
        set_details(change, timed_out_time=change.now)
        if change.open.cancel_time is None:
            _ask(change, self.reason or TIMED_OUT)
        change.bump()
        return Stopped(first=True, phase=change.phase)


def _ask(change: Change, reason: str) -> None:
    change.event(EventType.RUN_CANCEL_REQUESTED, facts={"reason": reason} if reason else None)
    change.update(cancel_reason=reason, cancel_time=change.now)
