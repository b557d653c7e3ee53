"""Attempts at a driven step, as its history tells of them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from stepwell_server.model.events import EventType, unpack_attributes
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.steps import StepState

if TYPE_CHECKING:
    from collections.abc import Iterable

ATTEMPT, TYPE, JOB, REASON, CAUSE = "attempt", "type", "job", "reason", "cause"
"""The facts of a step's events, of which its attempts are told."""
ENDS = {
    EventType.STEP_COMPLETED: StepState.COMPLETED,
    EventType.STEP_FAILED: StepState.FAILED,
    EventType.STEP_WAITING: StepState.WAITING,
    EventType.STEP_CANCELLED: StepState.CANCELLED,
}
TELLING = frozenset({EventType.STEP_STARTED, EventType.STEP_SKIPPED, *ENDS})


class Told(msgspec.Struct, frozen=True, gc=False):
    """An event of a step, with its payload."""

    number: int
    type: int
    time: datetime
    payload: Payload
    attributes: bytes | None


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One attempt. `skip` is the reason and the cause of one that was skipped."""

    number: int
    type: str
    state: StepState
    input: Payload
    output: Payload | None
    failure: Failure | None
    skip: tuple[str, int] | None
    job_id: str
    start_time: datetime
    end_time: datetime | None


def attempts_of(events: Iterable[Told]) -> list[Attempt]:
    """The attempts that a step's events tell of, in their order."""
    found: list[Attempt] = []
    for event in events:
        facts = unpack_attributes(event.attributes).facts or {}
        if event.type == EventType.STEP_STARTED:
            if found and found[-1].state == StepState.RUNNING:
                found[-1] = replace(found[-1], state=StepState.CANCELLED)
            found.append(_begun(event, facts, StepState.RUNNING, int(facts.get(ATTEMPT, "1")), event.payload))
        elif event.type == EventType.STEP_SKIPPED:
            number = int(facts.get(ATTEMPT, "1"))
            skipped = found.pop() if found and found[-1].number == number else None
            begun = skipped or _begun(event, facts, StepState.SKIPPED, number, NULL)
            skip = (facts.get(REASON, ""), int(facts.get(CAUSE, "0")))
            ended = {"state": StepState.SKIPPED, "output": event.payload, "skip": skip, "end_time": event.time}
            found.append(replace(begun, **ended))
        elif found:
            failure = unpack_attributes(event.attributes).failure
            ended = {"state": ENDS[EventType(event.type)], "output": event.payload, "failure": failure}
            found[-1] = replace(found[-1], **ended, end_time=event.time)
    return found


def _begun(event: Told, facts: dict[str, str], state: StepState, number: int, given: Payload) -> Attempt:
    return Attempt(number, facts.get(TYPE, ""), state, given, None, None, None, facts.get(JOB, ""), event.time, None)
