"""One job while a batch changes it: a run of one activity, with no history and nobody's code that waits for it.

It offers the verbs that decisions about activities need, see `activity_change`. A job is one value, and so is what a
refused command must leave as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine.closing import close_job, open_job
from stepwell_server.engine.news import News
from stepwell_server.engine.run_change import HIGHEST_PRIORITY
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.jobs import JOB_ORDINAL, ClosedJob, Job
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.steps import StepState, unpack_step_details
from stepwell_server.model.tasks import JobGrant, Task, TaskKind

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from stepwell_server.engine.limits import Limits
    from stepwell_server.engine.names import JobBirths
    from stepwell_server.model.events import EventType


class JobChange:
    """See the module. `original` is the job as it was stored, open or closed; as it was made, if it is fresh."""

    __slots__ = (
        "_mark",
        "births",
        "closed_job",
        "fresh",
        "has_beat",
        "heartbeats",
        "input",
        "job",
        "limits",
        "news",
        "now",
        "original",
        "result",
        "task_drops",
        "tasks",
    )

    def __init__(
        self,
        *,
        now: datetime,
        limits: Limits,
        births: JobBirths,
        job: Job | None,
        closed_job: ClosedJob | None = None,
        fresh: bool = False,
        given: Payload | None = None,
    ) -> None:
        self.now = now
        self.limits = limits
        self.births = births
        self.job = job
        self.closed_job = closed_job
        self.original = job or closed_job
        self.fresh = fresh
        self.input = given
        self.result = NULL
        self.tasks: dict[int, Task] = {}
        self.task_drops: dict[int, None] = {}
        self.heartbeats: dict[int, tuple[datetime, Payload]] = {}
        self.has_beat = fresh
        self.news = News()
        self.begin()

    # --- undo -------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Starts a command: what follows can be undone until the next `begin`."""
        self._mark = (
            (self.job, self.closed_job, self.result, dict(self.tasks), dict(self.task_drops)),
            self.news.mark(),
        )

    def undo(self) -> None:
        """Takes back all since `begin`."""
        (self.job, self.closed_job, self.result, self.tasks, self.task_drops), told = self._mark
        self.news.undo(told)

    # --- the job ----------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the job is open."""
        return self.job is not None

    @property
    def open(self) -> Job:
        """The job, which must be open."""
        if self.job is None:
            raise AssertionError("the job has ended")
        return self.job

    @property
    def _any(self) -> Job | ClosedJob:
        found = self.job or self.closed_job
        if found is None:
            raise AssertionError("a change has an open or a closed job")
        return found

    @property
    def key(self) -> int:
        """The job's key, open or closed."""
        return self._any.job_key

    @property
    def job_id(self) -> UUID:
        """The job's id, open or closed."""
        return self._any.job_id

    @property
    def namespace_id(self) -> int:
        """The job's namespace, open or closed."""
        return self._any.namespace_id

    @property
    def traceparent(self) -> str:
        """The job's trace context, open or closed."""
        return self._any.traceparent

    @property
    def phase(self) -> StepState:
        """The job's state, open or closed."""
        return StepState(self._any.state)

    @property
    def retries(self) -> int:
        """How often the job was retried after it had failed."""
        return self._any.retries

    @property
    def has_changed(self) -> bool:
        """Whether there is anything to write."""
        return self.fresh or (self.job or self.closed_job) is not self.original

    def update(self, **fields: Any) -> None:  # noqa: ANN401 - columns of jobs
        """Changes columns of the open job."""
        self.job = replace(self.open, **fields)

    def reopen(self) -> None:
        """Takes a job that has ended among the open ones again, as it is when it begins anew."""
        if self.closed_job is None:
            raise AssertionError("the job has not ended")
        self.job = open_job(self.closed_job, self.now)
        self.closed_job = None

    # --- as an activity ---------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """A job has no history that could be full."""
        return True

    def step(self, ordinal: int) -> Job | ClosedJob | None:
        """The job itself."""
        return self._any if ordinal == JOB_ORDINAL else None

    def put_step(self, step: Job) -> None:
        """Changes the open job."""
        self.job = step

    def end_step(
        self,
        step: Job,
        state: StepState,
        event: int,
        *,
        payload: Payload = NULL,
        failure: Failure | None = None,
    ) -> ClosedJob:
        """Moves the job among the ended ones, for as long as it is kept."""
        del event
        ended = close_job(step, state, self.now, failure)
        if step.state == StepState.PENDING:
            self.drop_task(JOB_ORDINAL)
        self.job, self.closed_job, self.result = None, ended, payload
        return ended

    def event(
        self,
        kind: EventType,
        *,
        ordinal: int = 0,
        payload: Payload = NULL,
        failure: Failure | None = None,
        facts: dict[str, str] | None = None,
    ) -> int:
        """A job has no history."""
        del kind, ordinal, payload, failure, facts
        return 0

    def bump(self) -> None:
        """A job's row is its own version."""

    def wake(self) -> None:
        """Nobody's code waits for a job."""

    def enqueue_step(self, step: Job) -> None:
        """Puts the job's task into its queue, ready now."""
        task = Task(
            run_key=step.job_key,
            ordinal=JOB_ORDINAL,
            namespace_id=step.namespace_id,
            task_queue=step.task_queue,
            kind=TaskKind.ACTIVITY,
            type=step.type,
            rank=HIGHEST_PRIORITY - step.priority,
            ready_time=self.now,
            build_id="",
            fairness_key=None if step.details is None else unpack_step_details(step.details).fairness_key,
        )
        self.tasks[JOB_ORDINAL] = task
        self.news.offer(task)

    def drop_task(self, ordinal: int) -> None:
        """Takes the job's task out of its queue, if it is in it."""
        if self.tasks.pop(ordinal, None) is None and not self.fresh:
            self.task_drops[ordinal] = None

    def heartbeat(self, ordinal: int) -> tuple[datetime, Payload] | None:
        """When the job last sent details, and which."""
        if not self.has_beat:
            raise Missing(heartbeats=[ordinal])
        return self.heartbeats.get(ordinal)

    def give(self, step: Job, session_id: UUID, ready_time: datetime | None) -> JobGrant:
        """The job as it is given to a session."""
        grant = JobGrant(session_id, step, self.input, ready_time)
        self.news.give(grant)
        return grant

    def lost(self, token: int, current: int) -> errors.LeaseLost:
        """The refusal of one who does not hold the job under that token."""
        return errors.LeaseLost(run_id=self.job_id, token=token, current=current)
