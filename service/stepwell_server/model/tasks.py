"""Tasks: work that waits for a worker. Field order is column order."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from uuid import UUID

import msgspec

from stepwell_server.model.jobs import JOB_ORDINAL, Activity, Job
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
    """A row of `tasks`. `ordinal` is the activity's step, 0 for the run itself, JOB_ORDINAL for a job.

    Lower `rank` goes first. A job's key stands in `run_key`. `fairness_key` is whose turn it takes, None if nobody's.
    """

    run_key: int
    ordinal: int
    namespace_id: int
    task_queue: str
    kind: int
    type: str
    rank: int
    ready_time: datetime
    build_id: str
    fairness_key: str | None = None


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

    @property
    def origin(self) -> Run:
        """Where its trace context stands."""
        return self.run

    @property
    def origin_id(self) -> UUID:
        """The run's id."""
        return self.run.run_id

    @property
    def activity(self) -> Activity | None:
        """What is to be performed, unless a run is to be advanced."""
        return self.step

    @property
    def step_name(self) -> str:
        """The activity's name in its run; empty for the run itself."""
        return self.step.name if self.step is not None else ""

    @property
    def key(self) -> tuple[int, int]:
        """The run's key, and the step's ordinal if the task is an activity."""
        return self.run.run_key, self.step.ordinal if self.step is not None else 0

    @property
    def token(self) -> int:
        """The fencing token."""
        return self.step.grants if self.step is not None else self.run.grants

    @property
    def kind(self) -> TaskKind:
        """What the task is about."""
        return TaskKind.RUN if self.step is None else TaskKind.ACTIVITY

    @property
    def task_queue(self) -> str:
        """Where it came from."""
        return self.step.task_queue if self.step is not None else self.run.task_queue


class JobGrant(msgspec.Struct, frozen=True, gc=False):
    """A job given to a session, with its input if that is at hand. It answers what a Grant answers."""

    session_id: UUID
    job: Job
    payload: Payload | None
    ready_time: datetime | None = None

    @property
    def origin(self) -> Job:
        """Where its trace context stands."""
        return self.job

    @property
    def origin_id(self) -> UUID:
        """The job's id."""
        return self.job.job_id

    @property
    def activity(self) -> Activity:
        """What is to be performed."""
        return self.job

    @property
    def step_name(self) -> str:
        """Empty: there is no run that it would have a name in."""
        return ""

    @property
    def key(self) -> tuple[int, int]:
        """The job's key, and what stands for a step's ordinal."""
        return self.job.job_key, JOB_ORDINAL

    @property
    def token(self) -> int:
        """The fencing token."""
        return self.job.grants

    @property
    def kind(self) -> TaskKind:
        """What the task is about."""
        return TaskKind.ACTIVITY

    @property
    def task_queue(self) -> str:
        """Where it came from."""
        return self.job.task_queue


AnyGrant = Grant | JobGrant


class Taken(msgspec.Struct, frozen=True, gc=False):
    """What an outside engine took of a driven run: the run itself, its task, or a step.

    `number` counts how often that was taken, as a grant's token does; 0 if nobody counts.
    """

    run: Run
    step: Step | None
    owner_id: str
    number: int
    ready_time: datetime | None = None

    @property
    def step_name(self) -> str:
        """The name of the step, as a grant tells it; empty if the run itself was taken."""
        return self.step.name if self.step is not None else ""


class Renewal(msgspec.Struct, frozen=True, gc=False):
    """An owner's word that it still holds a driven run, and whether it does."""

    run: Run | ClosedRun
    owner_id: str
    number: int
    renewed: bool
