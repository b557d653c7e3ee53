"""What programs ask for in transactions of their own. Field order is column order."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from uuid import UUID

import msgspec


class Verb(IntEnum):
    """What is asked for."""

    START = 1
    SIGNAL = 2
    COMPLETE_STEP = 3


class InboxRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `inbox`. `name` is the run's type, the signal's or the step's name."""

    number: int
    namespace_id: int
    namespace: str
    verb: int
    run_id: UUID | None
    workflow_id: str
    name: str
    task_queue: str
    priority: int
    signal_id: str
    token: int
    payload: bytes | None
    append_time: datetime


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """A row of `dead_letters`, and why it could not be done."""

    number: int
    namespace_id: int
    namespace: str
    verb: int
    run_id: UUID | None
    workflow_id: str
    name: str
    task_queue: str
    priority: int
    signal_id: str
    token: int
    payload: bytes | None
    append_time: datetime
    reason: str
    message: str
    refuse_time: datetime
