"""Runs, open and closed. Field order is column order."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from uuid import UUID

import msgspec

from stepwell_server.model import filters
from stepwell_server.model.concurrency import Concurrency, SlotState
from stepwell_server.model.debounces import Debounce
from stepwell_server.model.notices import FIRST_EVENT
from stepwell_server.model.steps import RetryPolicy


class Phase(IntEnum):
    """How far a run has come; the proto's RunPhase."""

    PENDING = 1
    RUNNING = 2
    SUSPENDED = 3
    COMPLETED = 4
    FAILED = 5
    CANCELLED = 6
    TERMINATED = 7
    TIMED_OUT = 8
    SKIPPED = 9


TERMINAL = frozenset(phase for phase in Phase if phase >= Phase.COMPLETED)
# The legal moves of a run that goes on.
MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.PENDING: frozenset({Phase.RUNNING, Phase.SUSPENDED}) | TERMINAL,
    Phase.RUNNING: frozenset({Phase.SUSPENDED}) | TERMINAL,
    Phase.SUSPENDED: frozenset({Phase.RUNNING}) | TERMINAL,
    **{phase: frozenset() for phase in TERMINAL},
}
# Out of these a code run is PENDING again when it failed and its retry policy has it begin anew; a driven run never is.
BEGUN_ANEW = frozenset({Phase.RUNNING, Phase.SUSPENDED})
# Out of a terminal phase leads only an explicit request, which history records; then the run is PENDING, if nobody ever
# held it, else RUNNING. Driven runs are their engine's.
RETRIED = frozenset({Phase.FAILED, Phase.CANCELLED, Phase.TERMINATED, Phase.TIMED_OUT})
REWOUND = RETRIED | {Phase.COMPLETED}
EMPTY_HASH = bytes(8)
ORDER_CHANGED = "ORDER_CHANGED"
WORKER_LOST = "WORKER_LOST"


class Followed(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The definition that a run follows: its key, and what never changes of it."""

    key: int
    definition_id: UUID
    code: str
    version: int


class RunDetails(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What is rarely set, kept apart so that the common row stays small. Durations in seconds."""

    begin_time: datetime | None = None
    maximum_run_seconds: float | None = None
    maximum_suspend_seconds: float | None = None
    # Of code runs: what becomes of a failure, which attempt this is, and under which grant the one before failed.
    retry: RetryPolicy | None = None
    attempt: int = 1
    failed_token: int = 0
    pause_details: str = ""
    pause_time: datetime | None = None
    wait_topic: str | None = None
    source_run_id: str = ""
    continued_run_id: str = ""
    continued_key: int = 0
    first_key: int = 0  # of the chain that it continues, 0 if it is the first itself
    carried_from: int = 0  # the run whose signals are yet to come to it; until then it does not begin
    keeps_signals: bool = False  # of an ended run, whose signals have yet to go to the one that continues it
    parent_run_id: str = ""
    parent_workflow_id: str = ""
    pause_event: int = 0  # holds the differences of a run whose order changed
    # Of code runs: the names of published values, and whether calls were ever left in `run_calls`.
    published: tuple[str, ...] = ()
    called: bool = False
    fairness_key: str | None = None  # whose turn its tasks take in queues where keys take turns
    attributed: bool = False  # whether it ever got search attributes while it was open
    # Of runs whose record was mended.
    removed_steps: int = 0  # how many of the ordinals given are in the record no more
    reopen_time: datetime | None = None
    # Of runs that have ended: the last event before their open steps were cancelled.
    closing_event: int = 0
    failure_event: int = 0  # why the last attempt failed, after which the run goes on
    # Of ended runs whose history is here no more.
    is_purged: bool = False
    archive_time: datetime | None = None
    archive_uri: str = ""
    # Of driven runs; the events hold the payloads, so that the row stays small.
    active_step: str = ""
    resume_time: datetime | None = None
    suspension_event: int = 0
    wake_cause: int = 0
    wake_event: int = 0
    wake_step: str = ""
    wake_topic: str = ""
    woken_time: datetime | None = None
    deadline: datetime | None = None  # set by its engine, in the place of the row's
    timed_out_time: datetime | None = None  # when its engine noted that its time was over
    # Of runs that follow a definition, and of driven runs with data.
    definition: Followed | None = None
    data_version: int = 0
    data_names: int = 0  # how many there are, and their bytes in all
    data_bytes: int = 0
    # Of runs under a concurrency limit; their row in `concurrency_slots` has the rest.
    concurrency: Concurrency | None = None
    # Of debounced runs: as long as another start may push them on; and which event holds the latest input.
    debounce: Debounce | None = None
    input_event: int = 0
    slot: int = SlotState.NONE


class Run(msgspec.Struct, frozen=True, gc=False):
    """An open run: a row of `runs`, which is the lock and the version of all that is open of it."""

    run_key: int
    namespace_id: int
    run_id: UUID
    workflow_id: str
    type: str
    task_queue: str
    priority: int
    driven: bool
    managed: bool
    parent_key: int | None
    parent_ordinal: int
    correlation_id: str
    traceparent: str
    tracestate: str
    create_time: datetime
    deadline: datetime | None
    # what changes:
    phase: int
    version: int
    last_event: int
    last_step: int
    last_signal: int
    open_steps: int
    order_count: int
    order_hash: bytes
    grants: int
    session_id: UUID | None
    returns: int
    queued: bool
    dirty: bool
    owner_id: str
    lease_expire_time: datetime | None
    pause_reason: str | None
    cancel_reason: str | None
    cancel_time: datetime | None
    build_id: str
    update_time: datetime
    suspend_time: datetime | None
    wake_time: datetime | None
    details: bytes | None


class ClosedRun(msgspec.Struct, frozen=True, gc=False):
    """A run that has ended: a row of `closed_runs`."""

    run_key: int
    namespace_id: int
    run_id: UUID
    workflow_id: str
    type: str
    task_queue: str
    priority: int
    driven: bool
    managed: bool
    parent_key: int | None
    parent_ordinal: int
    correlation_id: str
    traceparent: str
    tracestate: str
    create_time: datetime
    deadline: datetime | None
    phase: int
    version: int
    last_event: int
    last_step: int
    last_signal: int
    order_count: int
    order_hash: bytes
    grants: int
    cancel_reason: str | None
    cancel_time: datetime | None
    build_id: str
    end_time: datetime
    end_event: int
    details: bytes | None


def deadline_of(run: Run | ClosedRun) -> datetime | None:
    """When a run times out: as it was started, or as its engine has set it since."""
    return run.deadline if run.details is None else unpack_details(run.details).deadline or run.deadline


def input_event_of(details: bytes | None) -> int:
    """Which event of a run holds its input: the first, unless a later start has replaced it."""
    return FIRST_EVENT if details is None else unpack_details(details).input_event or FIRST_EVENT


class RunRef(msgspec.Struct, frozen=True, gc=False):
    """Which run is meant: by key, by id, or by workflow id (the open run of that name, else the latest).

    `namespace_id` None looks in every namespace.
    """

    namespace_id: int | None
    namespace: str
    run_key: int | None = None
    run_id: UUID | None = None
    workflow_id: str = ""

    @property
    def key(self) -> int | None:
        """Its key, if that is known."""
        return self.run_key

    @property
    def is_key(self) -> bool:
        """Whether it need not be looked up: the key says it all."""
        return self.run_key is not None

    @property
    def is_name(self) -> bool:
        """Whether only the workflow id is given, which bears a new meaning with each new run."""
        return self.run_key is None and self.run_id is None

    @property
    def label(self) -> UUID | str:
        """How the caller named it."""
        return self.run_id or self.workflow_id or str(self.run_key)


class RunId(msgspec.Struct, frozen=True, gc=False):
    """A row of `run_ids`."""

    run_id: UUID
    namespace_id: int
    run_key: int
    request_hash: bytes | None


LISTED: filters.Fields = {
    "run_id": filters.ID,
    "workflow_id": filters.SORTED_TEXT,
    "type": filters.SORTED_TEXT,
    "task_queue": filters.SORTED_TEXT,
    "phase": filters.member_of(Phase, "RUN_PHASE_", is_sortable=True),
    "priority": filters.SORTED_NUMBER,
    "driven": filters.FLAG,
    "managed": filters.FLAG,
    "paused": filters.FLAG,
    "pause_reason": filters.TEXT,
    "cancel_requested": filters.FLAG,
    "correlation_id": filters.TEXT,
    "build_id": filters.TEXT,
    "owner_id": filters.TEXT,
    "event_count": filters.SORTED_NUMBER,
    "create_time": filters.SORTED_TIME,
    "update_time": filters.SORTED_TIME,
    "end_time": filters.SORTED_TIME,
    "deadline": filters.TIME,
    filters.ANY_ATTRIBUTE: filters.ATTRIBUTE,
}
"""By what lists of runs are filtered and sorted."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RunDetails)
NO_DETAILS = RunDetails()


def pack_details(details: RunDetails) -> bytes | None:
    """Details as a column; None where nothing is set."""
    return None if details == NO_DETAILS else _encoder.encode(details)


def unpack_details(packed: bytes | None) -> RunDetails:
    """The inverse of `pack_details`."""
    return NO_DETAILS if packed is None else _decoder.decode(packed)
