"""Who has which activity of a driven run: a worker of the engine's own, by its name, and without a session."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec
from msgspec.structs import replace

from stepwell_server.engine import grants
from stepwell_server.engine.change import Change
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.runs import RunRef
from stepwell_server.model.steps import Kind, Step, StepState, pack_step_details, unpack_step_details
from stepwell_server.model.tasks import Taken


class ClaimedActivity(msgspec.Struct, frozen=True, gc=False):
    """The answer to a claim: the activity as its worker begins it."""

    run_id: UUID
    workflow_id: str
    step: Step


def claim(change: Change, ordinal: int, owner_id: str, now: datetime) -> ClaimedActivity | None:
    """Gives a waiting activity to a worker, or answers None if it is not to be had any more."""
    run = change.run
    if run is None:
        return None
    step = change.step(ordinal)
    if not isinstance(step, Step) or step.state != StepState.PENDING:
        return None
    change.drop_task(ordinal)
    granted = replace(
        step,
        state=StepState.RUNNING,
        owner_id=owner_id,
        grants=step.grants + 1,
        attempt=step.attempt + 1,
        start_time=now,
    )
    granted = replace(granted, wake_time=grants.next_timeout(granted))
    change.put_step(granted)
    change.bump()
    change.news.claim(Taken(run, granted, owner_id, granted.grants))
    return ClaimedActivity(run.run_id, run.workflow_id, granted)


class ReturnActivity(msgspec.Struct, frozen=True, gc=False):
    """Takes an activity back from a claimer who has not heard of it: as if it had not been claimed."""

    ref: RunRef
    ordinal: int
    token: int

    def wants(self) -> Missing:
        return Missing(ordinals=[self.ordinal])

    def decide(self, change: Change) -> bool:
        step = change.step(self.ordinal) if change.run is not None else None
        if not isinstance(step, Step) or step.state != StepState.RUNNING or step.grants != self.token:
            return False
        change.put_step(
            replace(
                step, state=StepState.PENDING, attempt=step.attempt - 1, owner_id="", start_time=None, wake_time=None
            )
        )
        change.bump()
        change.enqueue_step(step, unpack_step_details(step.details).ready_time)
        return True


class InterruptActivity(msgspec.Struct, frozen=True, gc=False):
    """Takes an activity from a worker that is gone: another attempt, if there is one left. False if it has it not."""

    ref: RunRef
    ordinal: int
    owner_id: str
    reason: str

    def wants(self) -> Missing:
        return Missing(ordinals=[self.ordinal])

    def decide(self, change: Change) -> bool:
        step = change.step(self.ordinal) if change.run is not None else None
        if not isinstance(step, Step) or step.kind != Kind.ACTIVITY or step.session_id is not None:
            return False
        if step.state != StepState.RUNNING or step.owner_id != self.owner_id:
            return False
        details = replace(unpack_step_details(step.details), ready_time=change.now)
        grants.interrupt(change, replace(step, details=pack_step_details(details)), self.reason)
        return True
