"""What an outside engine records of its steps by their names: attempts that begin and end, and what is skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine.change import Change
from stepwell_server.engine.driven import held
from stepwell_server.engine.driven_steps import StepAnswer, identity_of, new_step
from stepwell_server.engine.step_holders import refuse_stale, unclaimed, with_details
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.attempts import ATTEMPT, CAUSE, JOB, REASON, TYPE
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import Failure, Payload
from stepwell_server.model.runs import RunRef
from stepwell_server.model.steps import ClosedStep, Kind, SkipCause, Step, StepState

if TYPE_CHECKING:
    from datetime import datetime


class RecordStepStart(msgspec.Struct, frozen=True, gc=False):
    """An attempt begins: the first, or the next of a step that has not ended or that failed."""

    ref: RunRef
    step_name: str
    type: str
    payload: Payload
    job_id: str
    token: int
    claim_token: int

    def wants(self) -> Missing:
        return Missing(identities=[identity_of(self.step_name)])

    def decide(self, change: Change) -> StepAnswer:
        held(change, self.token)
        step = _open(change, self.step_name, self.claim_token, is_anew=True)
        attempt = step.attempt + 1 if step is not None else 1
        ordinal = step.ordinal if step is not None else change.open.last_step + 1
        facts = {ATTEMPT: str(attempt), TYPE: self.type, JOB: self.job_id}
        event = change.event(EventType.STEP_STARTED, ordinal=ordinal, payload=self.payload, facts=_said(facts))
        if step is None:
            begun = self._begun(new_step(change, identity_of(self.step_name), event), attempt, event, change.now)
            change.add_step(begun)
        else:
            begun = self._begun(step, attempt, event, change.now)
            change.replace_steps([(step, begun)])
        change.claim_dispatch(self.step_name)
        return StepAnswer(begun, done=True)

    def _begun(self, step: Step, attempt: int, event: int, now: datetime) -> Step:
        step = with_details(step, job_id=self.job_id)
        changed = {"input_event": event, "attempt": attempt, "start_time": now}
        return replace(step, type=self.type, state=StepState.RUNNING, **changed)


class RecordStepComplete(msgspec.Struct, frozen=True, gc=False):
    """The attempt under way ends its step, or has it wait to be begun again."""

    ref: RunRef
    step_name: str
    state: int
    payload: Payload
    failure: Failure | None
    token: int
    claim_token: int

    def wants(self) -> Missing:
        return Missing(identities=[identity_of(self.step_name)])

    def decide(self, change: Change) -> StepAnswer:
        held(change, self.token)
        step = _open(change, self.step_name, self.claim_token, is_anew=False)
        if step is None:
            raise errors.StepNotFound(run_id=change.run_id, step=self.step_name)
        if step.state != StepState.RUNNING:
            raise errors.StepStateConflict(step=self.step_name, state=StepState(step.state).name)
        if self.state == StepState.SKIPPED:
            reason = self.failure.message if self.failure is not None else ""
            return _skip(change, step, reason, SkipCause.UNSPECIFIED, self.payload)
        kind = _EVENTS[StepState(self.state)]
        facts = {ATTEMPT: str(step.attempt)}
        event = change.event(kind, ordinal=step.ordinal, payload=self.payload, failure=self.failure, facts=facts)
        if self.state == StepState.WAITING:
            waiting = replace(step, state=StepState.WAITING)
            change.put_step(waiting)
            return StepAnswer(waiting, done=True)
        payload, failure = self.payload, self.failure
        ended = change.end_step(unclaimed(step), StepState(self.state), event, payload=payload, failure=failure)
        return StepAnswer(ended, done=True)


_EVENTS = {
    StepState.COMPLETED: EventType.STEP_COMPLETED,
    StepState.FAILED: EventType.STEP_FAILED,
    StepState.WAITING: EventType.STEP_WAITING,
}


class RecordSkippedStep(msgspec.Struct, frozen=True, gc=False):
    """A step is not done at all."""

    ref: RunRef
    step_name: str
    type: str
    reason: str
    cause: int
    trace: Payload
    blocked_by: tuple[str, ...]
    token: int
    claim_token: int

    def wants(self) -> Missing:
        return Missing(identities=[identity_of(self.step_name)])

    def decide(self, change: Change) -> StepAnswer:
        held(change, self.token)
        step = _open(change, self.step_name, self.claim_token, is_anew=False)
        if step is None:
            step = new_step(change, identity_of(self.step_name), 0)
            change.add_step(step)
        changed = replace(with_details(step, blocked_by=self.blocked_by), type=self.type or step.type)
        change.claim_dispatch(self.step_name)
        return _skip(change, replace(changed, attempt=step.attempt + 1), self.reason, self.cause, self.trace)


def _skip(change: Change, step: Step, reason: str, cause: int, trace: Payload) -> StepAnswer:
    """Ends an open step as skipped, with its claim."""
    facts = {ATTEMPT: str(step.attempt), TYPE: step.type, REASON: reason, CAUSE: str(int(cause))}
    event = change.event(EventType.STEP_SKIPPED, ordinal=step.ordinal, payload=trace, facts=_said(facts))
    step = with_details(unclaimed(step), skip_reason=reason, skip_cause=int(cause))
    if step.start_time is None:
        step = replace(step, start_time=change.now)
    return StepAnswer(change.end_step(step, StepState.SKIPPED, event, payload=trace), done=True)


def _open(change: Change, step_name: str, claim_token: int, *, is_anew: bool) -> Step | None:
    """The step, if it has not ended, or None if it is not recorded; with `is_anew` one that failed is open again."""
    step = change.step_named(identity_of(step_name))
    if isinstance(step, ClosedStep) and is_anew and step.state == StepState.FAILED:
        step = change.reopen_step(step)
    if step is None:
        if claim_token:
            raise change.lost(claim_token, 0)
        return None
    if not isinstance(step, Step) or step.kind != Kind.LOCAL:
        raise errors.StepStateConflict(step=step_name, state=StepState(step.state).name)
    refuse_stale(change, step, claim_token)
    return step


def _said(facts: dict[str, str]) -> dict[str, str]:
    return {name: fact for name, fact in facts.items() if fact}
