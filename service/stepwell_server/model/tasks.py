"""Tasks: work that waits for a worker. Field order is column order."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from uuid import UUID

import msgspec

from stepwell_server.model.payloads import Payload
from stepwell_server.model.runs import ClosedRun, Run
from stepwell_server.model.steps import Step


class TaskKind(IntEnum):
    """What a task is about; the proto's TaskKind, and what only outside engines' workers take."""

    RUN = 1
    ACTIVITY = 2
    DRIVEN_ACTIVITY = 4


WORKERS_KINDS = (TaskKind.RUN, TaskKind.ACTIVITY)
"""What workers of ours take, runs first."""


class Task(msgspec.Struct, frozen=True, gc=False):
    """A row of `tasks`. `ordinal` is the activity's step, 0 for the run itself; lower `rank` goes first."""

    run_key: int
    ordinal: int
    namespace_id: int
    task_queue: str
    kind: int
    type: str
    rank: int
    ready_time: datetime
    build_id: str


class Grant(msgspec.Struct, frozen=True, gc=False):
    """A task given to a session: the run as it then was, the step of an activity, its input if that is at hand.

    `fresh` tells that the run has no recorded steps, so that nothing needs to be read for a replay. `ready_time` is
    since when the task waited in its queue; None, if it went to a waiting worker at once.
    """

    session_id: UUID
    run: Run
    step: Step | None
    payload: Payload | None
    fresh: bool = False
    ready_time: datetime | None = None


class Taken(msgspec.Struct, frozen=True, gc=False):
    """What an outside engine took of a driven run: the run itself, its task, or a step.

    `number` counts how often that was taken, as a grant's token does; 0 if nobody counts.
    """

    run: Run
    step: Step | None
    owner_id: str
    number: int
    ready_time: datetime | None = None


class Renewal(msgspec.Struct, frozen=True, gc=False):
    """An owner's word that it still holds a driven run, and whether it does."""

    run: Run | ClosedRun
    owner_id: str
    number: int
    renewed: bool
