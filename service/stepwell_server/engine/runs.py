"""Steering a run from outside: cancel, terminate, pause, resume; and what time does to it."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import msgspec
from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine import driven, endings, starts
from stepwell_server.engine.change import Change
from stepwell_server.engine.starts import begins_later, counts_from, next_look
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.runs import ORDER_CHANGED, Phase, RunRef, deadline_of, pack_details, unpack_details
from stepwell_server.model.steps import Kind, unpack_step_details


class Steered(msgspec.Struct, frozen=True, gc=False):
    """The answer to a steering call."""

    accepted: bool
    run_id: UUID
    phase: int


class CancelRun(msgspec.Struct, frozen=True, gc=False):
    """Asks a run to cancel. One that nobody has begun, or that nobody's code looks after, ends at once."""

    ref: RunRef
    reason: str

    def wants(self) -> Missing:
        return Missing(open_steps=True)

    def decide(self, change: Change) -> Steered:
        run = change.run
        if run is None or run.cancel_time is not None:
            return Steered(accepted=False, run_id=change.run_id, phase=change.phase)
        request_cancel(change, self.reason)
        return Steered(accepted=True, run_id=change.run_id, phase=change.phase)


def request_cancel(change: Change, reason: str) -> None:
    """Notes the request, lets the run's code hear of it, and asks its activities to stop."""
    run = change.open
    activities = [step for step in change.every_open_step() if step.kind == Kind.ACTIVITY and not run.driven]
    if starts.is_unbegun(run):
        change.event(EventType.RUN_CANCEL_REQUESTED, facts={"reason": reason})
        change.update(cancel_reason=reason, cancel_time=change.now)
        endings.end_run(change, Phase.CANCELLED, reason=reason)
        return
    change.event(EventType.RUN_CANCEL_REQUESTED, facts={"reason": reason})
    change.update(cancel_reason=reason, cancel_time=change.now)
    change.news.run_cancel = True
    for step in activities:
        if not unpack_step_details(step.details).shielded:
            endings.stop_activity(change, step, reason or "the run was asked to cancel")
    endings.wake(change)


class TerminateRun(msgspec.Struct, frozen=True, gc=False):
    """Ends a run at once, without clean-up."""

    ref: RunRef
    reason: str

    def wants(self) -> Missing:
        return Missing(open_steps=True)

    def decide(self, change: Change) -> Steered:
        if change.run is None:
            return Steered(accepted=False, run_id=change.run_id, phase=change.phase)
        endings.terminate_run(change, self.reason)
        return Steered(accepted=True, run_id=change.run_id, phase=Phase.TERMINATED)


class PauseRun(msgspec.Struct, frozen=True, gc=False):
    """Stops a run from being worked on. Its holder loses it; its activities finish and are recorded."""

    ref: RunRef
    reason: str

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: Change) -> Steered:
        run = change.open
        if run.pause_reason is not None:
            return Steered(accepted=False, run_id=run.run_id, phase=run.phase)
        pause(change, self.reason, "")
        return Steered(accepted=True, run_id=run.run_id, phase=run.phase)


def pause(change: Change, reason: str, explanation: str, differences: Payload = NULL) -> None:
    """Pauses the run, and takes it from whoever holds it. `differences` are what was found, for people to look at."""
    run = change.open
    facts = {"reason": reason, "details": explanation}
    event = change.event(EventType.RUN_PAUSED, payload=differences, facts=facts)
    change.news.notice(event)
    if run.session_id is not None:
        change.news.revoke(run.session_id, 0, run.grants, "RUN_PAUSED")
    if run.queued:
        change.drop_task(0)
    pause_event = 0 if differences is NULL else event
    details = unpack_details(run.details)
    details = replace(details, pause_details=explanation, pause_time=change.now, pause_event=pause_event)
    change.update(pause_reason=reason, session_id=None, owner_id="", queued=False, details=pack_details(details))


def clear_pause(change: Change) -> None:
    """Takes the pause off the run. How often it came back before is forgotten."""
    details = replace(unpack_details(change.open.details), pause_details="", pause_time=None, pause_event=0)
    change.update(pause_reason=None, returns=0, details=pack_details(details))


class ResumeRun(msgspec.Struct, frozen=True, gc=False):
    """Lets a paused run go on. One whose order changed needs `accept_order`."""

    ref: RunRef
    accept_order: bool

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: Change) -> Steered:
        run = change.open
        if run.pause_reason is None:
            return Steered(accepted=False, run_id=run.run_id, phase=run.phase)
        if run.pause_reason == ORDER_CHANGED and not self.accept_order:
            explanation = unpack_details(run.details).pause_details
            raise errors.RunPaused(run_id=run.run_id, pause_reason=f"{ORDER_CHANGED} ({explanation})")
        event = change.event(EventType.RUN_RESUMED, facts={"accept_order": "true"} if self.accept_order else None)
        change.news.notice(event)
        clear_pause(change)
        if not run.driven and not begins_later(change):
            endings.enqueue_run(change)
        return Steered(accepted=True, run_id=run.run_id, phase=change.phase)


class LookAtRun(msgspec.Struct, frozen=True, gc=False):
    """What time does to a run: its delayed start is over, its deadline has passed, a policy's patience is at its end.

    Answers whether anything came of it.
    """

    ref: RunRef

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: Change) -> bool:
        run = change.run
        if run is None or run.wake_time is None or run.wake_time > change.now:
            return False
        deadline = deadline_of(run)
        if deadline is not None and deadline <= change.now:
            failure = Failure("the run's deadline passed", "Timeout", non_retryable=True)
            endings.end_run(change, Phase.TIMED_OUT, failure=failure)
            return True
        reason = _overdue_policy(change)
        if reason is not None:
            change.event(EventType.RUN_CANCEL_REQUESTED, facts={"reason": reason})
            change.update(cancel_reason=reason, cancel_time=change.now)
            endings.end_run(change, Phase.CANCELLED, reason=reason)
            return True
        if run.driven:
            driven.wake_if_due(change)
        change.update(wake_time=next_look(change))
        change.bump()
        waits = run.session_id is None and run.phase == Phase.PENDING and run.pause_reason is None
        if waits and not run.driven and not begins_later(change):
            endings.enqueue_run(change)
        return True


def _overdue_policy(change: Change) -> str | None:
    """Which of the cancellation policy's limits has passed; the names are stem's."""
    run = change.open
    details = unpack_details(run.details)
    longest = details.maximum_run_seconds
    if longest is not None and counts_from(run) + timedelta(seconds=longest) <= change.now:
        return "maxRunDuration"
    longest = details.maximum_suspend_seconds
    since = run.suspend_time
    if longest is not None and since is not None and since + timedelta(seconds=longest) <= change.now:
        return "maxSuspendDuration"
    return None
