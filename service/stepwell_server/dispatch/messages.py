"""What a stream has to say, as values; api/workers.py puts them into the protocol's words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec

from stepwell_server.model.payloads import Failure, Payload
from stepwell_server.model.run_calls import RunCall
from stepwell_server.model.steps import ClosedStep, EndedStep, Step
from stepwell_server.model.tasks import AnyGrant
from stepwell_server.refusals import Refusal

# Bytes of payload that one message should hold; a single larger payload goes by itself.
MOST_BYTES = 1_000_000
_MOST_STEPS = 256


class RecordedStep(msgspec.Struct, frozen=True, gc=False):
    """A step as a replay needs it; open ones have neither payload nor failure."""

    step: Step | ClosedStep
    payload: Payload
    failure: Failure | None


class Assign(msgspec.Struct, frozen=True, gc=False):
    """A task, with all that its worker needs."""

    grant: AnyGrant
    payload: Payload
    traceparent: str
    steps: list[RecordedStep] = []
    more_steps: bool = False
    heartbeat: Payload | None = None
    updates: list[RunCall] = []

    @property
    def key(self) -> tuple[int, int]:
        """The run's or job's key, and the step's ordinal if the task is an activity."""
        return self.grant.key

    @property
    def token(self) -> int:
        """The grant's fencing token."""
        return self.grant.token


class AdvanceRun(msgspec.Struct, frozen=True, gc=False):
    """News of a resident run."""

    run_key: int
    token: int
    ended: list[EndedStep]
    cancel_requested: bool = False
    cancel_reason: str = ""
    updates: list[RunCall] = []


class Question(msgspec.Struct, frozen=True, gc=False):
    """A query for the worker that holds a run."""

    correlation: int
    run_key: int
    token: int
    name: str
    input: Payload


class TaskNotice(msgspec.Struct, frozen=True, gc=False):
    """A task that should stop (a cancel), or that is held no longer (a revoke)."""

    run_key: int
    ordinal: int
    token: int
    reason: str


class ReportAnswer(msgspec.Struct, frozen=True, gc=False):
    """What became of a report. `refusal` None and not `duplicate`: accepted. `remedy`: see api/remedies.py."""

    correlation: int
    duplicate: bool = False
    refusal: Refusal | None = None
    remedy: int = 0
    repeat_seconds: float = 0.0
    ordinals: list[int] = []
    ended: list[EndedStep] = []


class BeatAnswer(msgspec.Struct, frozen=True, gc=False):
    """What became of a heartbeat item."""

    run_key: int
    ordinal: int
    token: int
    cancel_requested: bool
    lost: bool


class Bundle(msgspec.Struct, gc=False):
    """What goes into one message, in the order of the protocol's urgency."""

    cancels: list[TaskNotice] = []
    revokes: list[TaskNotice] = []
    results: list[ReportAnswer] = []
    beats: list[BeatAnswer] = []
    advances: list[AdvanceRun] = []
    assigns: list[Assign] = []
    questions: list[Question] = []
    ping: int = 0
    pong: int = 0
    rotate_seconds: float | None = None
    expire_time: datetime | None = None


def ended_size(ended: EndedStep) -> int:
    """How many bytes an ended step brings into a message."""
    return len(ended.payload.body) if ended.payload is not None else 0


def slices(ended: Sequence[EndedStep]) -> Iterator[list[EndedStep]]:
    """Ended steps in their order, a message's worth at a time; at least one slice, which may be empty."""
    part: list[EndedStep] = []
    size = 0
    for each in ended:
        size += ended_size(each)
        if part and (size > MOST_BYTES or len(part) == _MOST_STEPS):
            yield part
            part, size = [], ended_size(each)
        part.append(each)
    yield part
