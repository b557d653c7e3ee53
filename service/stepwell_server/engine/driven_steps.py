"""Steps of driven runs: begun, completed and failed by their engine, or saved as checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine.change import Change
from stepwell_server.engine.closing import close_step
from stepwell_server.engine.driven import driven, held
from stepwell_server.engine.step_holders import refuse_stale, unclaimed
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.runs import RunRef
from stepwell_server.model.steps import ClosedStep, Kind, Step, StepState
from stepwell_server.model.tasks import Taken

if TYPE_CHECKING:
    from stepwell_server.engine.wishes import Identity


class StepAnswer(msgspec.Struct, frozen=True, gc=False):
    """A step as it is now, and whether the call made it so; `run_id` where a number alone named it."""

    step: Step | ClosedStep
    done: bool
    run_id: UUID | None = None


def name_of(step_name: str) -> tuple[str, str]:
    """The name and the key of a step that its engine calls `step_name`, with or without an occurrence."""
    name, mark, _ = step_name.partition("#")
    return (name, step_name) if name and mark else (step_name, "")


def identity_of(step_name: str) -> Identity:
    """What makes that step unique in its run."""
    name, key = name_of(step_name)
    return ("", name, 0, key)


class BeginStep(msgspec.Struct, frozen=True, gc=False):
    """Begins a step, unless it is under way or done."""

    ref: RunRef
    step_name: str
    payload: Payload
    owner_id: str
    token: int

    def wants(self) -> Missing:
        return Missing(identities=[identity_of(self.step_name)])

    def decide(self, change: Change) -> StepAnswer:
        held(change, self.token)
        step = change.step_named(identity_of(self.step_name))
        if step is None:
            step = _add(change, self.step_name, EventType.STEP_STARTED, self.payload)
        elif isinstance(step, ClosedStep) and step.state == StepState.FAILED:
            step = change.reopen_step(step)
            step = replace(step, input_event=_started(change, step, self.payload))
        elif isinstance(step, Step) and step.state == StepState.PENDING and not step.owner_id:
            step = _begin_pending(change, step, self.payload)
        else:
            return StepAnswer(step, done=False)
        begun = replace(
            step, state=StepState.RUNNING, attempt=step.attempt + 1, owner_id=self.owner_id, start_time=change.now
        )
        change.put_step(begun)
        change.news.claim(Taken(change.open, begun, self.owner_id, begun.attempt))
        return StepAnswer(begun, done=True)


def _begin_pending(change: Change, step: Step, payload: Payload) -> Step:
    """One that was scheduled keeps its input; one that was merely claimed, and released, had none."""
    if step.input_event:
        _started(change, step, NULL)
        return step
    begun = replace(step, input_event=_started(change, step, payload))
    change.replace_steps([(step, begun)])
    return begun


def _started(change: Change, step: Step, payload: Payload) -> int:
    facts = {"attempt": str(step.attempt + 1)}
    return change.event(EventType.STEP_STARTED, ordinal=step.ordinal, payload=payload, facts=facts)


class ScheduleStep(msgspec.Struct, frozen=True, gc=False):
    """Records a step that is to be begun later, unless it is recorded already."""

    ref: RunRef
    step_name: str
    payload: Payload
    token: int

    def wants(self) -> Missing:
        return Missing(identities=[identity_of(self.step_name)])

    def decide(self, change: Change) -> StepAnswer:
        held(change, self.token)
        step = change.step_named(identity_of(self.step_name))
        if step is not None:
            return StepAnswer(step, done=False)
        return StepAnswer(_add(change, self.step_name, EventType.STEP_SCHEDULED, self.payload), done=True)


class EndStep(msgspec.Struct, frozen=True, gc=False):
    """Completes a RUNNING step, or with a failure fails it."""

    ref: RunRef
    ordinal: int
    payload: Payload
    failure: Failure | None
    token: int
    claim_token: int = 0

    def wants(self) -> Missing:
        return Missing(ordinals=[self.ordinal])

    def decide(self, change: Change) -> StepAnswer:
        step = change.step(self.ordinal)
        if step is None:
            raise errors.StepNotFound(run_id=change.run_id, step=str(self.ordinal))
        if change.run is not None:
            held(change, self.token)
        if isinstance(step, ClosedStep) or step.state != StepState.RUNNING or step.kind != Kind.LOCAL:
            raise errors.StepStateConflict(step=step.key or step.name, state=StepState(step.state).name)
        refuse_stale(change, step, self.claim_token)
        failed = self.failure is not None
        event = change.event(
            EventType.STEP_FAILED if failed else EventType.STEP_COMPLETED,
            ordinal=step.ordinal,
            payload=self.payload,
            failure=self.failure,
        )
        state = StepState.FAILED if failed else StepState.COMPLETED
        ended = change.end_step(unclaimed(step), state, event, payload=self.payload, failure=self.failure)
        return StepAnswer(ended, done=True, run_id=change.open.run_id)


class SaveStep(msgspec.Struct, frozen=True, gc=False):
    """Saves a checkpoint, in the place of an earlier one. Answers whether there was one."""

    ref: RunRef
    step_name: str
    payload: Payload
    token: int

    def wants(self) -> Missing:
        return Missing(identities=[identity_of(self.step_name)])

    def decide(self, change: Change) -> StepAnswer:
        held(change, self.token)
        before = change.step_named(identity_of(self.step_name))
        if isinstance(before, Step):
            refuse_stale(change, before, 0)
        ordinal = before.ordinal if before is not None else driven(change).last_step + 1
        event = change.event(EventType.STEP_COMPLETED, ordinal=ordinal, payload=self.payload)
        if isinstance(before, Step):
            return StepAnswer(change.end_step(before, StepState.COMPLETED, event, payload=self.payload), done=False)
        if before is None:
            ended = close_step(new_step(change, identity_of(self.step_name), 0), StepState.COMPLETED, change.now, event)
            change.add_ended_step(ended)
            return StepAnswer(ended, done=False)
        ended = replace(before, state=StepState.COMPLETED, end_time=change.now, end_event=event)
        change.remove_step(before)
        change.put_ended_step(ended)
        return StepAnswer(ended, done=True)


def _add(change: Change, step_name: str, kind: EventType, payload: Payload) -> Step:
    event = change.event(kind, ordinal=change.open.last_step + 1, payload=payload)
    step = new_step(change, identity_of(step_name), event)
    change.add_step(step)
    return step


def new_step(change: Change, identity: Identity, event: int) -> Step:
    """The run's next step, not yet added to it; `event` holds its input."""
    run = change.open
    _, name, occurrence, key = identity
    return Step(
        run_key=run.run_key,
        ordinal=run.last_step + 1,
        scope="",
        name=name,
        occurrence=occurrence,
        key=key,
        kind=Kind.LOCAL,
        type="",
        task_queue="",
        priority=run.priority,
        wait_name=None,
        seq=0,
        child_key=None,
        create_time=change.now,
        input_event=event,
        state=StepState.PENDING,
        attempt=0,
        grants=0,
        session_id=None,
        returns=0,
        owner_id="",
        start_time=None,
        wake_time=None,
        cancel_requested=False,
        details=None,
        managed=run.managed,
    )
