"""One run while a batch changes it: what was loaded, what the commands made of it, and what is to be written.

A command's `decide` reads and changes it through the verbs of Change and the parts below it, and nothing else: no
I/O, no clock but `now`. Commands of one run are folded over the same Change in their order. Every verb notes how to
undo itself, so that a refused command leaves no trace; a decision may therefore refuse at any point.

The verbs that decisions about activities need are those of `activity_change`: a job has them too.

Invariants: every change of what is open of a run goes with a higher `version`; event numbers have no gaps; a step is
in `steps` (open) or in `closed`, never in both; `run` is None exactly when there is no open run.

Each part stands on the one before. RunChange: the run itself, its history, its tasks, its mail, and undoing.
StepChange: its steps. SideChange: branches, heartbeats and whatever else stands in a small table of its own.
SignalChange and TopicChange: what comes from outside. Change: its activities, and what goes with a step that ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine import endings
from stepwell_server.engine.run_change import HIGHEST_PRIORITY
from stepwell_server.engine.step_change import AnyStep
from stepwell_server.engine.topic_change import TopicChange
from stepwell_server.model.events import payload_of, unpack_attributes
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.steps import ClosedStep, Kind, Step, StepState, is_on_topic
from stepwell_server.model.tasks import Grant, TaskKind
from stepwell_server.model.topics import TopicWait
from stepwell_server.model.user_tasks import TaskStatus, UserTask

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID


class Change(TopicChange):
    """See the module."""

    __slots__ = ()

    # --- its activities ---------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something that the run's code waits for has ended: it hears."""
        endings.wake(self)

    def enqueue_step(self, step: Step, ready_time: datetime | None = None) -> None:
        """Puts an activity's task into its queue. A driven run's are claimed apart, whatever their type."""
        if self.open.driven:
            kind, type_name, priority = TaskKind.DRIVEN_ACTIVITY, "", HIGHEST_PRIORITY
        else:
            kind, type_name, priority = TaskKind.ACTIVITY, step.type, step.priority
        self.enqueue(step.ordinal, kind, step.task_queue, type_name, priority, ready_time)

    def give(self, step: Step, session_id: UUID, ready_time: datetime | None) -> Grant:
        """An activity as it is given to a session."""
        payload = self.input_at_hand(step.input_event)
        grant = Grant(session_id, self.open, step, payload, ready_time=ready_time)
        self.news.give(grant)
        return grant

    def input_at_hand(self, number: int) -> Payload | None:
        """An input, if the event that holds it was appended in this batch."""
        for event in self.events:
            if event.number == number:
                return payload_of(event.payload_kind, event.payload, unpack_attributes(event.attributes))
        return None

    def lost(self, token: int, current: int) -> errors.LeaseLost:
        """The refusal of one who does not hold the run, or an activity of it, under that token."""
        return errors.LeaseLost(run_id=self.run_id, token=token, current=current)

    # --- what goes with its steps -----------------------------------------------------------------------------------

    def end_step(
        self,
        step: Step,
        state: StepState,
        event: int,
        *,
        payload: Payload | None = NULL,
        failure: Failure | None = None,
        timed_out: bool = False,
    ) -> ClosedStep:
        """See `StepChange`. One that waited for a topic does so no more; a task for people goes with it."""
        if is_on_topic(step) and (step.ordinal in self.loaded_steps or (TopicWait, step.ordinal) in self.sides):
            self.put_side((TopicWait, step.ordinal), None)
        if step.kind == Kind.USER_TASK:
            self._end_user_task(step.ordinal)
        return super().end_step(step, state, event, payload=payload, failure=failure, timed_out=timed_out)

    def replace_steps(self, steps: list[tuple[AnyStep, AnyStep]]) -> None:
        """See `StepChange`. A task for people, done or not, is found by its step's name. Asks for those not loaded."""
        self.need_sides((UserTask, after.ordinal) for _, after in steps if after.kind == Kind.USER_TASK)
        super().replace_steps(steps)
        for _, after in steps:
            row = self.sides.get((UserTask, after.ordinal))
            if isinstance(row, UserTask) and row.step_name != after.name:
                self.put_user_task(row, step_name=after.name)

    def user_task(self, ordinal: int) -> UserTask | None:
        """The task of that step, or None. Asks for it if it is not loaded."""
        row = self.side((UserTask, ordinal))
        return row if isinstance(row, UserTask) else None

    def put_user_task(self, task: UserTask, **fields: Any) -> UserTask:  # noqa: ANN401 - columns of user_tasks
        """Changes a task, and notes that it changed."""
        changed = replace(task, update_time=self.now, version=task.version + 1, **fields)
        self.put_side((UserTask, task.ordinal), changed)
        return changed

    def _end_user_task(self, ordinal: int) -> None:
        """Nobody needs it any more, unless it was completed. It was loaded with its step."""
        row = self.sides.get((UserTask, ordinal))
        if isinstance(row, UserTask) and row.is_active:
            self.put_user_task(row, status=TaskStatus.CANCELLED)
