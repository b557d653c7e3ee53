"""Steps, open and closed. Field order is column order."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from uuid import UUID

import msgspec

from stepwell_server.model import filters
from stepwell_server.model.payloads import Failure, Payload


class Kind(IntEnum):
    """What a step is; the proto's StepKind."""

    LOCAL = 1
    ACTIVITY = 2
    TIMER = 3
    WAIT = 4
    CHILD = 5
    USER_TASK = 6
    MARKER = 7


class StepState(IntEnum):
    """How far a step has come; the proto's StepState."""

    PENDING = 1
    RUNNING = 2
    WAITING = 3
    COMPLETED = 4
    FAILED = 5
    SKIPPED = 6
    CANCELLED = 7


ENDED = frozenset(state for state in StepState if state >= StepState.COMPLETED)
STEP_MOVES: dict[StepState, frozenset[StepState]] = {
    StepState.PENDING: frozenset({StepState.RUNNING}) | ENDED,
    StepState.RUNNING: frozenset({StepState.PENDING, StepState.WAITING}) | ENDED,
    StepState.WAITING: frozenset({StepState.RUNNING}) | ENDED,
    **{state: frozenset() for state in ENDED},
}


class SkipCause(IntEnum):
    """Why a driven step was not done; the proto's `Step.Skip.Cause`."""

    UNSPECIFIED = 0
    PREREQUISITES = 1
    CONDITION = 2


class RetryPolicy(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """When and how often to try again; seconds. `maximum_attempts` 0 is without limit."""

    initial_seconds: float = 1.0
    coefficient: float = 2.0
    maximum_seconds: float = 100.0
    maximum_attempts: int = 0
    non_retryable_types: tuple[str, ...] = ()


class Timeouts(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An activity's timeouts in seconds; None is without."""

    schedule_to_start: float | None = None
    schedule_to_close: float | None = None
    start_to_close: float | None = None
    heartbeat: float | None = None


class StepDetails(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a step needs only now and then."""

    retry: RetryPolicy | None = None
    timeouts: Timeouts | None = None
    last_failure: Failure | None = None
    failed_token: int = 0  # the grant whose worker reported `last_failure`
    fingerprint: bytes = b""
    ready_time: datetime | None = None
    child_run_id: str = ""
    close_policy: int = 0
    heartbeat: Payload | None = None
    update_name: str = ""
    place: int = 0
    shielded: bool = False
    after_number: int | None = None  # waits for a topic: its last event when the wait began
    winner: int = 0
    user_task_id: str = ""
    # Of driven steps: their claim, if it has a lease or a time; what carries them; why they were skipped.
    claim_time: datetime | None = None
    claim_expire_time: datetime | None = None
    job_id: str = ""
    expire_time: datetime | None = None  # from when on a driven wait gets no signal
    skip_cause: int = 0
    skip_reason: str = ""
    blocked_by: tuple[str, ...] = ()
    fairness_key: str | None = None  # of a job; an activity has its run's


class Step(msgspec.Struct, frozen=True, gc=False, tag_field="is", tag="open"):
    """An open step: a row of `steps`."""

    run_key: int
    ordinal: int
    scope: str
    name: str
    occurrence: int
    key: str
    kind: int
    type: str
    task_queue: str
    priority: int
    wait_name: str | None
    seq: int
    child_key: int | None
    create_time: datetime
    input_event: int
    # what changes:
    state: int
    attempt: int
    grants: int
    session_id: UUID | None
    returns: int
    owner_id: str
    start_time: datetime | None
    wake_time: datetime | None
    cancel_requested: bool
    details: bytes | None
    # what does not:
    managed: bool = True  # whether the service moves it when its time has come: as its run has it

    @property
    def schedule_time(self) -> datetime:
        """From when on its timeouts count: a job's may be later than its creation."""
        return self.create_time

    @property
    def identity(self) -> tuple[str, str, int, str]:
        """What makes it unique in its run."""
        return (self.scope, self.name, self.occurrence, self.key)


class ClosedStep(msgspec.Struct, frozen=True, gc=False, tag_field="is", tag="closed"):
    """A step that has ended: a row of `closed_steps`. `end_event` orders ends and holds the result."""

    run_key: int
    ordinal: int
    scope: str
    name: str
    occurrence: int
    key: str
    kind: int
    type: str
    task_queue: str
    priority: int
    wait_name: str | None
    seq: int
    child_key: int | None
    create_time: datetime
    input_event: int
    state: int
    attempt: int
    grants: int
    start_time: datetime | None
    end_time: datetime
    end_event: int
    timed_out: bool
    details: bytes | None

    @property
    def identity(self) -> tuple[str, str, int, str]:
        """What makes it unique in its run."""
        return (self.scope, self.name, self.occurrence, self.key)


def result_event(step: ClosedStep) -> int:
    """The event that holds what a step came to. A wait's is the signal's, which may be older than its end."""
    return step.input_event if step.kind == Kind.WAIT and step.input_event else step.end_event


class EndedStep(msgspec.Struct, frozen=True, gc=False):
    """A step that ended, with what it came to: what a worker is told. A `payload` of None is to be read first."""

    step: ClosedStep
    payload: Payload | None
    failure: Failure | None


class Scope(msgspec.Struct, frozen=True, gc=False):
    """A branch of a run: how many calls were recorded in it, and their chained hash. A row of `scopes`."""

    run_key: int
    scope: str
    order_count: int
    order_hash: bytes


LISTED: filters.Fields = {
    "ordinal": filters.SORTED_NUMBER,
    "scope": filters.TEXT,
    "name": filters.SORTED_TEXT,
    "occurrence": filters.NUMBER,
    "key": filters.TEXT,
    "kind": filters.member_of(Kind, "STEP_KIND_", is_sortable=True),
    "type": filters.SORTED_TEXT,
    "state": filters.member_of(StepState, "STEP_STATE_", is_sortable=True),
    "task_queue": filters.TEXT,
    "attempt": filters.SORTED_NUMBER,
    "seq": filters.NUMBER,
    "wait_name": filters.TEXT,
    "owner_id": filters.TEXT,
    "create_time": filters.SORTED_TIME,
    "start_time": filters.SORTED_TIME,
    "end_time": filters.SORTED_TIME,
    "completion": filters.SORTED_NUMBER,
}
"""By what lists of steps are filtered and sorted."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(StepDetails)
NO_STEP_DETAILS = StepDetails()
DEFAULT_RETRY = RetryPolicy()
NO_TIMEOUTS = Timeouts()


def pack_step_details(details: StepDetails) -> bytes | None:
    """Details as a column; None where nothing is set."""
    return None if details == NO_STEP_DETAILS else _encoder.encode(details)


def unpack_step_details(packed: bytes | None) -> StepDetails:
    """The inverse of `pack_step_details`."""
    return NO_STEP_DETAILS if packed is None else _decoder.decode(packed)


def fingerprint_of(step: Step | ClosedStep) -> bytes:
    """What the code gave to be the same on replay, usually nothing."""
    return b"" if step.details is None else unpack_step_details(step.details).fingerprint


def is_on_topic(step: Step | ClosedStep) -> bool:
    """Whether it is a wait for a topic, not for a signal."""
    return step.kind == Kind.WAIT and unpack_step_details(step.details).after_number is not None


def has_expired(step: Step, now: datetime) -> bool:
    """Whether it is a wait of a driven run whose time is over: nobody moves it, and it gets nothing any more."""
    if step.details is None:
        return False
    expire_time = unpack_step_details(step.details).expire_time
    return expire_time is not None and expire_time <= now
