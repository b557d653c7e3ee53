"""How a run ends, and what its end means for its open steps, its children and its parent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from stepwell_server.engine import concurrency, debounces
from stepwell_server.model.events import EventType
from stepwell_server.model.mail import Letter, Subject
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.runs import Phase, pack_details, unpack_details
from stepwell_server.model.steps import Kind, StepState, unpack_step_details
from stepwell_server.model.tasks import TaskKind

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change
    from stepwell_server.model.steps import Step

ABANDON, REQUEST_CANCEL = 3, 2
EVENT_OF_PHASE = {
    Phase.COMPLETED: EventType.RUN_COMPLETED,
    Phase.FAILED: EventType.RUN_FAILED,
    Phase.CANCELLED: EventType.RUN_CANCELLED,
    Phase.TERMINATED: EventType.RUN_TERMINATED,
    Phase.TIMED_OUT: EventType.RUN_TIMED_OUT,
    Phase.SKIPPED: EventType.RUN_SKIPPED,
}
_CANCELLED_EVENT = {
    Kind.ACTIVITY: EventType.ACTIVITY_CANCELLED,
    Kind.TIMER: EventType.TIMER_CANCELLED,
    Kind.WAIT: EventType.WAIT_CANCELLED,
    Kind.CHILD: EventType.CHILD_CANCELLED,
    Kind.USER_TASK: EventType.USER_TASK_CANCELLED,
}


def end_run(
    change: Change,
    phase: Phase,
    *,
    payload: Payload = NULL,
    failure: Failure | None = None,
    reason: str = "",
    kind: EventType | None = None,
) -> None:
    """Ends the run: its open steps are cancelled, its children dealt with by their policies, its parent told."""
    steps = change.every_open_step()
    if steps and not change.open.driven:
        # A retry does those anew that were open, and leaves what the code itself had given up.
        details = unpack_details(change.open.details)
        change.update(details=pack_details(replace(details, closing_event=change.open.last_event)))
    for step in steps:
        cancel_step(change, step, f"run ended: {phase.name}", to_child="parent ended")
    run = change.open
    holder = run.session_id
    facts = {"reason": reason} if reason else None
    event = change.event(kind or EVENT_OF_PHASE[phase], payload=payload, failure=failure, facts=facts)
    if holder is not None:
        change.news.revoke(holder, 0, run.grants, "RUN_ENDED")
    if run.parent_key is not None and run.parent_ordinal and kind is not EventType.RUN_CONTINUED:
        letter = Letter(Subject.CHILD_ENDED, run.parent_ordinal, phase, payload, failure, reason)
        change.post(run.parent_key, letter)
    if run.details is not None:
        concurrency.leave(change)
        debounces.settle(change)
    change.close(phase, event)


def terminate_run(change: Change, reason: str) -> None:
    """Ends the run at once, without clean-up."""
    failure = Failure(reason or "terminated", "Terminated", non_retryable=True)
    end_run(change, Phase.TERMINATED, failure=failure, reason=reason)


def cancel_step(change: Change, step: Step, reason: str, *, to_child: str = "") -> None:
    """Cancels an open step: its task is dropped, its worker told, its child dealt with.

    `to_child` is what its child is told in place of the reason.
    """
    if step.session_id is not None:
        change.news.cancel(step.session_id, step.ordinal, step.grants, reason)
    if step.kind == Kind.CHILD and step.child_key is not None:
        policy = unpack_step_details(step.details).close_policy
        if policy != ABANDON:
            subject = Subject.CANCEL if policy == REQUEST_CANCEL else Subject.TERMINATE
            change.post(step.child_key, Letter(subject, reason=to_child or f"parent gave it up: {reason}"))
    event = change.event(
        _CANCELLED_EVENT.get(Kind(step.kind), EventType.STEP_CANCELLED), ordinal=step.ordinal, facts={"reason": reason}
    )
    change.end_step(step, StepState.CANCELLED, event)


def stop_activity(change: Change, step: Step, reason: str) -> None:
    """Asks an activity to stop; one that nobody is at ends."""
    if step.cancel_requested:
        return
    if step.session_id is None:
        cancel_step(change, step, reason)
        return
    change.put_step(replace(step, cancel_requested=True))
    change.bump()
    change.news.cancel(step.session_id, step.ordinal, step.grants, reason)


def wake(change: Change) -> None:
    """Something that the run's code waits for has ended: its holder is told, or else a worker gets the run."""
    run = change.open
    # One that has not begun will, as soon as it may.
    if run.driven or run.pause_reason is not None or run.phase == Phase.PENDING:
        return
    if run.session_id is not None:
        change.update(dirty=True, phase=Phase.RUNNING, suspend_time=None)
        return
    enqueue_run(change)


def enqueue_run(change: Change) -> None:
    """Puts the run's task into its queue, unless it is there. One that needs a slot for that waits in its line."""
    run = change.open
    if run.queued:
        return
    if run.details is not None:
        debounces.settle(change)
        if not concurrency.may_go(change):
            return
    phase = Phase.PENDING if run.phase == Phase.PENDING else Phase.RUNNING
    change.update(queued=True, phase=phase, suspend_time=None)
    change.enqueue(0, TaskKind.RUN, run.task_queue, run.type, run.priority)
