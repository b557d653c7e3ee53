"""Steps of another run with which a new run's record begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import Failure, Payload
from stepwell_server.model.steps import ClosedStep, Kind, Scope, StepState
from stepwell_server.model.topics import TopicPosition

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change

_EVENTS = {
    StepState.COMPLETED: EventType.STEP_COMPLETED,
    StepState.FAILED: EventType.STEP_FAILED,
    StepState.SKIPPED: EventType.STEP_SKIPPED,
    StepState.CANCELLED: EventType.STEP_CANCELLED,
}


class CopiedStep(msgspec.Struct, frozen=True, gc=False):
    """An ended step of another run, with what it came to."""

    step: ClosedStep
    payload: Payload
    failure: Failure | None


class Copied(msgspec.Struct, frozen=True, gc=False):
    """The steps, by ordinal, and of each branch how many calls they are, with their chained hash.

    `had` is how far the other run had come with the events of topics that are kept.
    """

    steps: tuple[CopiedStep, ...] = ()
    lines: tuple[tuple[str, int, bytes], ...] = ()
    had: tuple[TopicPosition, ...] = ()


def copy(change: Change, copied: Copied) -> None:
    """Records the steps in a new run, numbered anew; each tells which one it was."""
    for each in copied.steps:
        step, ordinal = each.step, change.open.last_step + 1
        facts = {"copied_from": str(step.ordinal), "kind": Kind(step.kind).name}
        event = change.event(
            _EVENTS[StepState(step.state)], ordinal=ordinal, payload=each.payload, failure=each.failure, facts=facts
        )
        change.add_ended_step(
            replace(
                step,
                run_key=change.run_key,
                ordinal=ordinal,
                child_key=None,
                create_time=change.now,
                input_event=0,
                grants=0,
                start_time=None,
                end_time=change.now,
                end_event=event,
            )
        )
    for position in copied.had:
        change.note_had(position.topic, position.number, position.expire_time)
    for scope, count, hash_ in copied.lines:
        change.set_scope(Scope(change.run_key, scope, count, hash_))
