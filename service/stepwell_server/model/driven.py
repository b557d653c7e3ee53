"""What a driven run has beside its steps: its wait on a topic, its task, its origin. Field order is column order."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from uuid import UUID

import msgspec

from stepwell_server.model.concurrency import ConcurrencySlot
from stepwell_server.model.debounces import RunDebounce
from stepwell_server.model.topics import TopicWait
from stepwell_server.model.user_tasks import UserTask


class Cause(IntEnum):
    """What a suspended run was woken by; the proto's `Run.Wake.Cause`."""

    CALLER = 1
    TOPIC = 2
    TIME = 3


class Watcher(msgspec.Struct, frozen=True, gc=False):
    """A row of `watchers`: a run that waits on a topic. `ordinal` is 0, the run's own wait: it has one at most."""

    run_key: int
    ordinal: int
    namespace_id: int
    topic: str
    step_name: str
    create_time: datetime
    deadline: datetime | None
    data: bytes | None


class RunTask(msgspec.Struct, frozen=True, gc=False):
    """A row of `run_tasks`: whether a worker should look at the run, and which one does."""

    run_key: int
    namespace_id: int
    task_queue: str
    is_ready: bool
    ready_time: datetime
    owner_id: str | None = None
    claim_time: datetime | None = None


class CallerSeq(msgspec.Struct, frozen=True, gc=False):
    """A row of `caller_seqs`: the event that has a caller's own number."""

    run_key: int
    caller_seq: int
    number: int


class RunOrigin(msgspec.Struct, frozen=True, gc=False):
    """A row of `run_origins`: what set a run off, as its engine said. It stays when the run has ended."""

    run_key: int
    namespace_id: int
    title: str = ""
    trigger_key: str = ""
    idempotency_key: str = ""
    source_run_id: UUID | None = None


class RunDefinition(msgspec.Struct, frozen=True, gc=False):
    """A row of `run_definitions`: the definition that the run follows. It stays when the run ends."""

    run_key: int
    definition_key: int


class RunDatum(msgspec.Struct, frozen=True, gc=False):
    """A row of `run_data`: a named payload, packed. It stays when the run ends."""

    run_key: int
    name: str
    payload: bytes


Side = (
    Watcher
    | RunTask
    | CallerSeq
    | TopicWait
    | UserTask
    | RunOrigin
    | RunDefinition
    | RunDatum
    | ConcurrencySlot
    | RunDebounce
)
"""A small row of a run in a table of its own."""
SideKey = tuple[type[Side], int | str]
"""Which of a run's rows: a watcher's, wait's or user task's ordinal, a caller's number, a datum's name; else 0."""
LASTING: tuple[type[Side], ...] = (UserTask, RunOrigin, RunDefinition, RunDatum)
"""The kinds of rows that a run keeps when it ends."""
