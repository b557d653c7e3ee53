"""Tasks for people: created for driven runs, claimed, completed by who claimed them, cancelled with their step."""

from __future__ import annotations

from typing import NoReturn
from uuid import UUID

import msgspec
from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine import endings, signals
from stepwell_server.engine.change import Change
from stepwell_server.engine.driven import held
from stepwell_server.engine.driven_steps import new_step
from stepwell_server.engine.wishes import Missing
from stepwell_server.ids import uuid7
from stepwell_server.model.events import EventType, payload_of, unpack_attributes
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.runs import RunRef
from stepwell_server.model.steps import Kind, Step, StepDetails, StepState, pack_step_details
from stepwell_server.model.user_tasks import TaskSpec, TaskStatus, UserTask

CANCELLED = "UserTaskCancelled"
"""The type of the failure with which a code run's step ends when somebody cancels its task."""
_ASSIGNED = frozenset({"assigned_role_id", "assigned_user_id", "assigned_group_id"})


class TaskAnswer(msgspec.Struct, frozen=True, gc=False):
    """A task as it is now, and whether the call made it so."""

    task: UserTask
    done: bool


def new_task(change: Change, step: Step, task_id: UUID, spec: TaskSpec) -> UserTask:
    """The row of a task whose step this is."""
    run = change.open
    fields = {name: getattr(spec, name) for name in TaskSpec.__struct_fields__}
    fields["title"] = spec.title or step.name
    return UserTask(
        run_key=run.run_key,
        ordinal=step.ordinal,
        namespace_id=run.namespace_id,
        task_id=task_id,
        run_id=run.run_id,
        workflow_id=run.workflow_id,
        step_name=step.name,
        **fields,
        status=TaskStatus.PENDING,
        create_time=change.now,
        update_time=change.now,
        claimed_by="",
        claim_time=None,
        completed_by="",
        complete_time=None,
        version=1,
        input_event=step.input_event,
        output_event=0,
    )


class CreateUserTask(msgspec.Struct, frozen=True, gc=False):
    """Creates a task of a driven run, or finds the one that is open for its step."""

    ref: RunRef
    step_name: str
    task_id: UUID | None
    spec: TaskSpec
    payload: Payload
    unless_active: bool
    token: int

    def wants(self) -> Missing | None:
        return Missing(open_steps=True) if self.unless_active else None

    def decide(self, change: Change) -> TaskAnswer:
        run, births = held(change, self.token), change.births
        if births is None:
            raise AssertionError("a batch knows ids")
        if self.unless_active and (active := self._active(change)) is not None:
            return TaskAnswer(active, done=False)
        task_id = self.task_id or uuid7()
        if self.task_id is not None and not births.give_user_task(run.namespace_id, task_id):
            raise errors.UserTaskExists(task_id=task_id)
        change.need_room()
        facts = {"task_id": str(task_id), "step": self.step_name}
        event = change.event(EventType.USER_TASK_CREATED, ordinal=run.last_step + 1, payload=self.payload, facts=facts)
        step = replace(
            new_step(change, ("", self.step_name, 0, str(task_id)), event),
            kind=Kind.USER_TASK,
            state=StepState.WAITING,
            details=pack_step_details(StepDetails(user_task_id=str(task_id))),
        )
        change.add_step(step)
        task = new_task(change, step, task_id, self.spec)
        change.put_side((UserTask, step.ordinal), task)
        return TaskAnswer(task, done=True)

    def _active(self, change: Change) -> UserTask | None:
        steps = change.every_open_step()
        named = [step.ordinal for step in steps if step.kind == Kind.USER_TASK and step.name == self.step_name]
        return change.user_task(max(named)) if named else None


NEW_TASK = 0
"""In place of a task's ordinal: one that a write before in the same commit makes, which has none yet."""


class _OfTask:
    """What the commands on one task share."""

    __slots__ = ()

    ref: RunRef
    ordinal: int

    def wants(self) -> Missing | None:
        if self.ordinal == NEW_TASK:
            return None
        return Missing(sides=[(UserTask, self.ordinal)], ordinals=[self.ordinal])


def _found(change: Change, ordinal: int, task_id: UUID) -> UserTask:
    task = change.user_task(ordinal) if ordinal != NEW_TASK else _made(change, task_id)
    if task is None:
        raise errors.UserTaskNotFound(task_id=task_id)
    return task


def _made(change: Change, task_id: UUID) -> UserTask | None:
    rows = (row for row in change.sides.values() if isinstance(row, UserTask))
    return next((row for row in rows if row.task_id == task_id), None)


def _refuse(task: UserTask) -> NoReturn:
    status = TaskStatus(task.status).name
    raise errors.UserTaskStateConflict(task_id=task.task_id, status=status, claimed_by=task.claimed_by)


def _note(change: Change, task: UserTask, what: str, by: str = "", payload: Payload = NULL) -> int:
    """Tells history of a change, as long as that has room, and answers the event's number: people go on without.

    A task that is claimed and given back for ever must not fill the history of its run.
    """
    if not change.has_room or task.version > change.limits.user_task_changes:
        change.bump()
        return 0
    facts = {"task_id": str(task.task_id), "change": what} | ({"by": by} if by else {})
    return change.event(EventType.USER_TASK_CHANGED, ordinal=task.ordinal, payload=payload, facts=facts)


def _need_room(change: Change, task: UserTask) -> None:
    """Refuses a new input, which would be in history, where that tells no more of the task."""
    change.need_room()
    at_most = change.limits.user_task_changes
    if task.version > at_most:
        raise errors.LimitExceeded(limit="user_task_changes", value=task.version, maximum=at_most)


class ClaimUserTask(_OfTask, msgspec.Struct, frozen=True, gc=False):
    """Gives a pending task to a user. Who has it already is answered the same again."""

    ref: RunRef
    ordinal: int
    task_id: UUID
    user_id: str

    def decide(self, change: Change) -> TaskAnswer:
        task = _found(change, self.ordinal, self.task_id)
        if task.is_active and task.assigned_user_id not in ("", self.user_id):
            raise errors.UserTaskAssignedElsewhere(task_id=task.task_id, assigned_user_id=task.assigned_user_id)
        if task.status == TaskStatus.CLAIMED and task.claimed_by == self.user_id:
            return TaskAnswer(task, done=False)
        if task.status != TaskStatus.PENDING:
            _refuse(task)
        _note(change, task, "claimed", self.user_id)
        fields = {"status": TaskStatus.CLAIMED, "claimed_by": self.user_id, "claim_time": change.now}
        return TaskAnswer(change.put_user_task(task, **fields), done=True)


class UnclaimUserTask(_OfTask, msgspec.Struct, frozen=True, gc=False):
    """Takes a claim back. `user_id` is who must have it, if it is given."""

    ref: RunRef
    ordinal: int
    task_id: UUID
    user_id: str

    def decide(self, change: Change) -> TaskAnswer:
        task = _found(change, self.ordinal, self.task_id)
        if task.status == TaskStatus.PENDING:
            return TaskAnswer(task, done=False)
        if task.status != TaskStatus.CLAIMED or self.user_id not in ("", task.claimed_by):
            _refuse(task)
        _note(change, task, "unclaimed", self.user_id)
        return TaskAnswer(change.put_user_task(task, **_UNCLAIMED), done=True)


class UpdateUserTask(_OfTask, msgspec.Struct, frozen=True, gc=False):
    """Changes those fields of an open task that are named. `payload` is its new input, None if that stays."""

    ref: RunRef
    ordinal: int
    task_id: UUID
    spec: TaskSpec
    names: frozenset[str]
    payload: Payload | None
    expected_version: int

    def decide(self, change: Change) -> TaskAnswer:
        task = _found(change, self.ordinal, self.task_id)
        if self.expected_version not in (0, task.version):
            raise errors.UserTaskVersionConflict(
                task_id=task.task_id, version=task.version, expected_version=self.expected_version
            )
        if not task.is_active:
            _refuse(task)
        changed = {name: getattr(self.spec, name) for name in self.names}
        if "title" in changed:
            changed["title"] = changed["title"] or task.step_name
        if self.payload is not None:
            _need_room(change, task)
            changed["input_event"] = _note(change, task, "updated", payload=self.payload)
        else:
            _note(change, task, "updated")
        after = replace(task, **changed)
        moved = any(getattr(after, name) != getattr(task, name) for name in _ASSIGNED)
        if moved and task.status == TaskStatus.CLAIMED and after.assigned_user_id != task.claimed_by:
            changed |= _UNCLAIMED
        return TaskAnswer(change.put_user_task(task, **changed), done=True)


class CompleteUserTask(_OfTask, msgspec.Struct, frozen=True, gc=False):
    """Completes a task by who has claimed it, and with it its step."""

    ref: RunRef
    ordinal: int
    task_id: UUID
    user_id: str
    payload: Payload

    def decide(self, change: Change) -> TaskAnswer:
        task = _found(change, self.ordinal, self.task_id)
        if task.status == TaskStatus.COMPLETED and task.completed_by == self.user_id and self._is_same(change, task):
            return TaskAnswer(task, done=False)
        step = change.step(task.ordinal)
        if task.status != TaskStatus.CLAIMED or task.claimed_by != self.user_id or not isinstance(step, Step):
            _refuse(task)
        facts = {"task_id": str(task.task_id), "by": self.user_id}
        event = change.event(EventType.USER_TASK_COMPLETED, ordinal=step.ordinal, payload=self.payload, facts=facts)
        done = change.put_user_task(
            task,
            status=TaskStatus.COMPLETED,
            completed_by=self.user_id,
            complete_time=change.now,
            output_event=event,
        )
        change.end_step(step, StepState.COMPLETED, event, payload=self.payload)
        if change.open.driven and task.signal_name:
            signals.deliver(change, task.signal_name, self.payload)
        change.wake()
        return TaskAnswer(done, done=True)

    def _is_same(self, change: Change, task: UserTask) -> bool:
        event = change.event_at(task.output_event)
        return event is not None and self.payload == payload_of(
            event.payload_kind, event.payload, unpack_attributes(event.attributes)
        )


class CancelUserTask(_OfTask, msgspec.Struct, frozen=True, gc=False):
    """Cancels an open task. One that is cancelled stays so."""

    ref: RunRef
    ordinal: int
    task_id: UUID
    reason: str

    def decide(self, change: Change) -> TaskAnswer:
        task = _found(change, self.ordinal, self.task_id)
        if task.status == TaskStatus.CANCELLED:
            return TaskAnswer(task, done=False)
        step = change.step(task.ordinal)
        if not isinstance(step, Step):
            _refuse(task)
        _cancel(change, step, self.reason)
        return TaskAnswer(_found(change, task.ordinal, self.task_id), done=True)


class CancelRunUserTasks(msgspec.Struct, frozen=True, gc=False):
    """Cancels all open tasks of a run. Answers how many."""

    ref: RunRef
    reason: str

    def wants(self) -> Missing:
        return Missing(open_steps=True)

    def decide(self, change: Change) -> int:
        if change.run is None:
            return 0
        steps = [step for step in change.every_open_step() if step.kind == Kind.USER_TASK]
        for step in sorted(steps, key=lambda each: each.ordinal):
            _cancel(change, step, self.reason)
        return len(steps)


class DeleteUserTask(_OfTask, msgspec.Struct, frozen=True, gc=False):
    """Deletes a task; one that is open is cancelled first. Answers whether it was there."""

    ref: RunRef
    ordinal: int

    def decide(self, change: Change) -> bool:
        if change.user_task(self.ordinal) is None:
            return False
        step = change.step(self.ordinal) if change.run is not None else None
        if isinstance(step, Step):
            _cancel(change, step, "deleted")
        change.put_side((UserTask, self.ordinal), None)
        return True


def _cancel(change: Change, step: Step, reason: str) -> None:
    """The code of a run hears of it as of a failure, which a retry of the run does anew."""
    reason = reason or "cancelled"
    if change.open.driven:
        endings.cancel_step(change, step, reason)
        return
    failure = Failure(reason, CANCELLED, non_retryable=True)
    event = change.event(EventType.USER_TASK_CANCELLED, ordinal=step.ordinal, failure=failure, facts={"reason": reason})
    change.end_step(step, StepState.FAILED, event, failure=failure)
    change.wake()


_UNCLAIMED = {"status": TaskStatus.PENDING, "claimed_by": "", "claim_time": None}
