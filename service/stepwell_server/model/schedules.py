"""Schedules and the firings of theirs that wait. Field order is column order."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from uuid import UUID

import msgspec


class Overlap(IntEnum):
    """What happens when a schedule is due while runs of it are open; the proto's ScheduleOverlapPolicy."""

    SKIP = 1
    BUFFER_ONE = 2
    CANCEL_OTHER = 3
    TERMINATE_OTHER = 4
    ALLOW_ALL = 5


class Spec(msgspec.Struct, frozen=True, gc=False):
    """When a schedule fires. `jitter_seconds` is the most that a firing is put off by."""

    cron: str
    time_zone: str = "UTC"
    jitter_seconds: float = 0.0
    start_time: datetime | None = None
    end_time: datetime | None = None


class Schedule(msgspec.Struct, frozen=True, gc=False):
    """A row of `schedules`. `run` is what it starts, packed by `engine.schedules`."""

    schedule_id: UUID
    namespace_id: int
    name: str
    cron: str
    time_zone: str
    jitter_seconds: float
    start_time: datetime | None
    end_time: datetime | None
    overlap_policy: int
    catchup_seconds: float
    run: bytes
    pause_reason: str | None
    create_time: datetime
    update_time: datetime
    # what a firing changes:
    version: int
    next_time: datetime | None
    next_nominal: datetime | None
    waiting: int
    last_time: datetime | None
    last_workflow_id: str
    last_run_id: UUID | None
    fired: int
    skipped: int
    missed: int
    last_error: str

    @property
    def spec(self) -> Spec:
        """When it fires."""
        return Spec(self.cron, self.time_zone, self.jitter_seconds, self.start_time, self.end_time)


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A row of `schedule_firings`: a time whose firing waits, for an open run to end or for its turn in a backfill."""

    schedule_id: UUID
    nominal_time: datetime
    overlap_policy: int


class ScheduleRun(msgspec.Struct, frozen=True, gc=False):
    """A row of `schedule_runs`: a run that was open when somebody last looked, by the name that it goes on under."""

    schedule_id: UUID
    workflow_id: str
    note_time: datetime


class OpenRun(msgspec.Struct, frozen=True, gc=False):
    """A run of a schedule, or one that continues it, while it is open."""

    run_key: int
    run_id: UUID
    cancel_requested: bool


class Trigger(msgspec.Struct, frozen=True, gc=False):
    """What a trigger comes to: the run that it starts, or the open one that it leaves it to, by both its names."""

    run_id: UUID
    left_to: str = ""
