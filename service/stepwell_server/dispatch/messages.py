"""What a stream has to say, as values; api/workers.py puts them into the protocol's words."""

from __future__ import annotations

from datetime import datetime

import msgspec

from stepwell_server.errors import Refusal
from stepwell_server.model.payloads import Failure, Payload
from stepwell_server.model.steps import ClosedStep, EndedStep, Step
from stepwell_server.model.tasks import Grant


class RecordedStep(msgspec.Struct, frozen=True, gc=False):
    """A step as a replay needs it; open ones have neither payload nor failure."""

    step: Step | ClosedStep
    payload: Payload
    failure: Failure | None


class Assign(msgspec.Struct, frozen=True, gc=False):
    """A task, with all that its worker needs."""

    grant: Grant
    payload: Payload
    traceparent: str
    steps: list[RecordedStep] = []
    more_steps: bool = False
    heartbeat: Payload | None = None


class AdvanceRun(msgspec.Struct, frozen=True, gc=False):
    """News of a resident run."""

    run_key: int
    token: int
    ended: list[EndedStep]
    cancel_requested: bool = False
    cancel_reason: str = ""


class TaskNotice(msgspec.Struct, frozen=True, gc=False):
    """A task that should stop (a cancel), or that is held no longer (a revoke)."""

    run_key: int
    ordinal: int
    token: int
    reason: str


class ReportAnswer(msgspec.Struct, frozen=True, gc=False):
    """What became of a report. `refusal` None and not `duplicate`: accepted."""

    correlation: int
    duplicate: bool = False
    refusal: Refusal | None = None
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
    ping: int = 0
    pong: int = 0
    rotate_seconds: float | None = None
    expire_time: datetime | None = None
