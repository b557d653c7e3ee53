"""What the decisions about driven runs share: who may write, and how a run is suspended, woken and ended.

A driven run's `wake_time` is when its own wait is over; of a managed one it is the earliest of that and of what else
the service must look at it for.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine import endings
from stepwell_server.engine.starts import next_look
from stepwell_server.model.driven import Cause, Watcher
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.runs import Phase, RunDetails, pack_details, unpack_details

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change
    from stepwell_server.model.runs import Run

WATCHER = (Watcher, 0)


class Moved(msgspec.Struct, frozen=True, gc=False):
    """The answer to a move of a run: whether it made a difference, and the phase after it."""

    run_id: UUID
    phase: int
    done: bool


def moved(change: Change, *, done: bool) -> Moved:
    """The answer as the run now is."""
    return Moved(change.run_id, change.phase, done)


def driven(change: Change) -> Run:
    """The open run, which must be a driven one."""
    run = change.open
    if not run.driven:
        raise errors.RunNotDriven(run_id=run.run_id)
    return run


def held(change: Change, token: int) -> Run:
    """The open driven run, if the caller may write to it: a leased one needs its token, also once that has expired.

    Refuses with LEASE_LOST.
    """
    run = driven(change)
    if (token or run.lease_expire_time is not None) and token != run.grants:
        raise errors.LeaseLost(run_id=run.run_id, token=token, current=run.grants)
    return run


def details_of(change: Change) -> RunDetails:
    """What is rarely set of the run."""
    return unpack_details(change.open.details)


def set_details(change: Change, **fields: Any) -> None:  # noqa: ANN401 - fields of RunDetails
    """Changes what is rarely set of the run, and when it wakes accordingly."""
    details = replace(details_of(change), **fields)
    change.update(details=pack_details(details))
    change.update(wake_time=next_look(change) if change.open.managed else details.resume_time)


def suspend(change: Change, step_name: str, until: datetime | None, data: Payload, topic: str | None = None) -> None:
    """Suspends the run; a wait on another topic is over."""
    run = change.open
    if topic is None:
        forget_wait(change)
    facts = {"step": step_name, "topic": topic or "", "until": until.isoformat() if until is not None else ""}
    event = change.event(
        EventType.RUN_SUSPENDED, payload=data, facts={name: fact for name, fact in facts.items() if fact} or None
    )
    since = run.suspend_time if run.phase == Phase.SUSPENDED else change.now
    change.update(phase=Phase.SUSPENDED, suspend_time=since)
    set_details(
        change,
        active_step=step_name,
        wait_topic=topic,
        resume_time=until,
        suspension_event=event if data is not NULL else 0,
        **_NOT_WOKEN,
    )


def go_on(change: Change, **fields: Any) -> None:  # noqa: ANN401 - fields of RunDetails
    """The run waits for nothing any more."""
    forget_wait(change)
    change.update(phase=Phase.RUNNING, suspend_time=None)
    change.bump()
    set_details(change, wait_topic=None, resume_time=None, **fields)


def forget_wait(change: Change) -> None:
    """Takes away the watcher, if there is one."""
    if details_of(change).wait_topic is not None:
        change.put_side(WATCHER, None)


def woken(change: Change, cause: Cause, event: int = 0) -> dict[str, Any]:
    """What is noted of how the run was woken."""
    details = details_of(change)
    return {
        "wake_cause": cause,
        "wake_event": event,
        "wake_step": details.active_step,
        "wake_topic": details.wait_topic or "",
        "woken_time": change.now,
    }


def wake_if_due(change: Change) -> None:
    """Time wakes a managed run by itself."""
    until = details_of(change).resume_time
    if change.open.phase == Phase.SUSPENDED and until is not None and until <= change.now:
        change.event(EventType.RUN_RESUMED, facts={"cause": Cause.TIME.name})
        go_on(change, **woken(change, Cause.TIME))


def end(
    change: Change, phase: Phase, payload: Payload = NULL, failure: Failure | None = None, reason: str = ""
) -> None:
    """Ends the run as its engine says."""
    if phase == Phase.CANCELLED and change.open.cancel_time is None:
        change.update(cancel_reason=reason, cancel_time=change.now)
    endings.end_run(change, phase, payload=payload, failure=failure, reason=reason)


_NOT_WOKEN: dict[str, Any] = {
    "wake_cause": 0,
    "wake_event": 0,
    "wake_step": "",
    "wake_topic": "",
    "woken_time": None,
}
