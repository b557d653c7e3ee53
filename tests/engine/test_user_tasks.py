"""Tasks for people that the code of runs waits for: completed, timed out, cancelled, given up, and done anew."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from tests.engine.code import Code, json, local
from tests.engine.mended import do, retry, rewind
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.reported import End, NewTimer, NewUserTask, Successor
from stepwell_server.engine.runs import CancelRun, LookAtRun, PauseRun, ResumeRun, TerminateRun
from stepwell_server.engine.timers import FireStep
from stepwell_server.engine.user_tasks import (
    CancelRunUserTasks,
    CancelUserTask,
    ClaimUserTask,
    CompleteUserTask,
    DeleteUserTask,
    TaskAnswer,
    UnclaimUserTask,
)
from stepwell_server.model.events import EventType, unpack_attributes
from stepwell_server.model.payloads import NULL, Failure
from stepwell_server.model.runs import Phase, RunDetails
from stepwell_server.model.steps import RetryPolicy, StepState, unpack_step_details
from stepwell_server.model.user_tasks import NEVER_DUE, TaskSpec, TaskStatus, UserTask

TASK = NewUserTask(TaskSpec(title="Approve", assigned_role_id="clerk"), json('{"n":1}'))
SOON = NewUserTask(timeout_seconds=5)


def asked(world: World, body: NewUserTask = TASK, **start: object) -> tuple[Code, int]:
    """A run whose code waits for a task, in its worker's memory."""
    key = world.start(**start)
    code = Code(world, key)
    code.run("approve", body, waiting=True, resident=True)
    return code, key


def task_of(world: World, key: int, ordinal: int = 1) -> UserTask:
    return world.store.user_tasks.rows[key, ordinal]


def claim(world: World, key: int, user: str = "ann", ordinal: int = 1) -> UserTask:
    answer = world.do(ClaimUserTask(world.ref(key), ordinal, task_of(world, key, ordinal).task_id, user))
    assert isinstance(answer, TaskAnswer)
    world.check()
    return answer.task


def complete(world: World, key: int, text: str = "7", user: str = "ann", ordinal: int = 1) -> UserTask:
    task_id = task_of(world, key, ordinal).task_id
    answer = world.do(CompleteUserTask(world.ref(key), ordinal, task_id, user, json(text)))
    assert isinstance(answer, TaskAnswer)
    world.check()
    return answer.task


def cancel(world: World, key: int, reason: str = "not needed", ordinal: int = 1) -> UserTask:
    answer = world.do(CancelUserTask(world.ref(key), ordinal, task_of(world, key, ordinal).task_id, reason))
    assert isinstance(answer, TaskAnswer)
    world.check()
    return answer.task


def told(world: World) -> list[tuple[int, object, object]]:
    """What the last batch tells of steps that ended."""
    assert world.last is not None
    changes = world.last.subjects.runs.values()
    return [(each.step.ordinal, each.payload, each.failure) for change in changes for each in change.news.ended]


@pytest.fixture
def world() -> World:
    return World()


def test_a_recorded_task_is_a_row_and_a_step(world: World) -> None:
    _, key = asked(world)
    step, task = world.step(key, 1), task_of(world, key)
    assert (step.state, step.wake_time, task.status, task.version) == (StepState.WAITING, None, TaskStatus.PENDING, 1)
    assert unpack_step_details(step.details).user_task_id == str(task.task_id)
    assert (task.title, task.assigned_role_id, task.step_name, task.due_time) == (
        "Approve",
        "clerk",
        "approve",
        NEVER_DUE,
    )
    assert world.events(key)[task.input_event - 1].payload == b'{"n":1}'
    _, other = asked(world, NewUserTask(due_seconds=60))
    assert task_of(world, other).due_time == world.now + timedelta(seconds=60)
    assert task_of(world, other).title == "approve"


def test_the_output_is_the_step_s_result_and_its_holder_hears(world: World) -> None:
    """In one batch: the row, the step, and the news."""
    _, key = asked(world)
    claim(world, key)
    done = complete(world, key)
    ended = world.ended(key, 1)
    assert (ended.state, ended.timed_out, ended.end_event) == (StepState.COMPLETED, False, done.output_event)
    assert (done.status, done.completed_by, done.complete_time) == (TaskStatus.COMPLETED, "ann", world.now)
    assert world.events(key)[done.output_event - 1].payload == b"7"
    assert told(world) == [(1, json("7"), None)]
    assert world.run(key).phase == Phase.RUNNING
    assert world.run(key).dirty


def test_a_run_that_nobody_holds_is_queued(world: World) -> None:
    key = world.start()
    Code(world, key).run("approve", TASK, waiting=True)
    assert not world.is_queued(key)
    claim(world, key)
    assert not world.is_queued(key)
    complete(world, key)
    assert world.is_queued(key)


def test_completion_of_a_paused_run_waits_for_its_resumption(world: World) -> None:
    key = world.start()
    Code(world, key).run("approve", TASK, waiting=True)
    claim(world, key)
    world.do(PauseRun(world.ref(key), "look"))
    complete(world, key)
    assert not world.is_queued(key)
    world.do(ResumeRun(world.ref(key), accept_order=False))
    assert world.is_queued(key)


def test_a_repeat_by_the_same_user_with_the_same_output_is_the_same(world: World) -> None:
    """Also once the run is over; anything else is refused."""
    code, key = asked(world)
    claim(world, key)
    done = complete(world, key)
    for ends in (False, True):
        if ends:
            code.end()
        assert complete(world, key) == done
        for text, user in (("8", "ann"), ("7", "bob")):
            with pytest.raises(errors.UserTaskStateConflict):
                complete(world, key, text, user)
    assert world.happened(key).count(EventType.USER_TASK_COMPLETED) == 1


def test_only_who_has_it_completes_it(world: World) -> None:
    _, key = asked(world)
    with pytest.raises(errors.UserTaskStateConflict):
        complete(world, key)
    assert claim(world, key) == claim(world, key)
    with pytest.raises(errors.UserTaskStateConflict) as refused:
        claim(world, key, "bob")
    assert refused.value.claimed_by == "ann"
    with pytest.raises(errors.UserTaskStateConflict):
        complete(world, key, user="bob")
    world.do(UnclaimUserTask(world.ref(key), 1, task_of(world, key).task_id, "ann"))
    assert claim(world, key, "bob").claimed_by == "bob"
    assert complete(world, key, user="bob").completed_by == "bob"


def test_time_that_is_over_is_told_apart(world: World) -> None:
    _, key = asked(world, SOON)
    claim(world, key)
    world.advance(4)
    assert not world.do(FireStep(world.ref(key), 1))
    world.advance(1)
    assert world.do(FireStep(world.ref(key), 1))
    world.check()
    assert (world.ended(key, 1).state, world.ended(key, 1).timed_out) == (StepState.COMPLETED, True)
    assert task_of(world, key).status == TaskStatus.CANCELLED
    assert world.run(key).dirty
    with pytest.raises(errors.UserTaskStateConflict):
        complete(world, key)
    (event,) = [each for each in world.events(key) if each.type == EventType.USER_TASK_CANCELLED]
    assert unpack_attributes(event.attributes).facts == {"reason": "timed out"}


def test_completion_in_time_comes_before_the_timeout(world: World) -> None:
    _, key = asked(world, SOON)
    claim(world, key)
    world.advance(10)
    complete(world, key)
    assert not world.do(FireStep(world.ref(key), 1))
    assert not world.ended(key, 1).timed_out


def test_the_code_hears_of_a_task_that_somebody_cancels(world: World) -> None:
    _, key = asked(world)
    assert cancel(world, key).status == TaskStatus.CANCELLED
    assert world.ended(key, 1).state == StepState.FAILED
    assert told(world) == [(1, NULL, Failure("not needed", "UserTaskCancelled", non_retryable=True))]
    assert world.run(key).dirty
    assert cancel(world, key).status == TaskStatus.CANCELLED
    assert world.happened(key).count(EventType.USER_TASK_CANCELLED) == 1


def test_all_tasks_of_a_run_are_cancelled_at_once(world: World) -> None:
    key = world.start()
    code = Code(world, key)
    code.send(*(code.call("a", TASK) for _ in range(4)), code.call("t", NewTimer(9)), waiting=True, resident=True)
    claim(world, key, ordinal=2)
    complete(world, key, ordinal=2)
    claim(world, key, ordinal=3)
    assert world.do(CancelRunUserTasks(world.ref(key), "all off")) == 3
    world.check()
    assert world.do(CancelRunUserTasks(world.ref(key), "all off")) == 0
    assert [task_of(world, key, each).status for each in (1, 2, 3, 4)] == [4, 3, 4, 4]
    assert world.step(key, 5).state == StepState.WAITING


@pytest.mark.parametrize("how", ["complete", "fail", "continue", "terminate", "time out", "give up", "replace"])
def test_a_task_goes_with_what_waits_for_it(world: World, how: str) -> None:
    """However many there are, one more look finds their rows."""
    key = world.start(timeout_seconds=60, workflow_id="w")
    code = Code(world, key)
    code.send(*(code.call("a", TASK) for _ in range(3)), waiting=True, resident=True)
    claim(world, key, ordinal=2)
    before = world.store.user_tasks.looks
    if how == "complete":
        code.end()
    elif how == "fail":
        code.end(End(Phase.FAILED, failure=Failure("no")))
    elif how == "continue":
        code.end(End(Phase.COMPLETED, successor=Successor(json("1"))))
    elif how == "terminate":
        world.do(TerminateRun(world.ref(key), "enough"))
    elif how == "time out":
        world.advance(60)
        world.do(LookAtRun(world.ref(key)))
    elif how == "give up":
        code.send(cancels=(1, 2, 3))
    else:
        _replace(world)
    world.check()
    assert [task_of(world, key, each).status for each in (1, 2, 3)] == [TaskStatus.CANCELLED] * 3
    assert world.store.user_tasks.looks <= before + 2
    with pytest.raises(errors.UserTaskStateConflict):
        claim(world, key)
    with pytest.raises(errors.UserTaskStateConflict):
        complete(world, key, ordinal=2)


def _replace(world: World) -> None:
    """Another run takes the name, and this one ends in the same batch."""
    from stepwell_server.engine.starts import Conflict, NewRun, Reuse, StartRun  # noqa: PLC0415

    fields = {"namespace_id": 1, "namespace": "main", "type": "flow", "task_queue": "q", "workflow_id": "w"}
    world.do(StartRun(NewRun(**fields), Reuse.ALLOW, Conflict.TERMINATE_EXISTING))  # type: ignore[arg-type]


def test_a_request_to_cancel_leaves_it_to_the_code(world: World) -> None:
    """Which may give the task up, or wait for it all the same."""
    code, key = asked(world)
    world.do(CancelRun(world.ref(key), "please"))
    world.check()
    assert task_of(world, key).status == TaskStatus.PENDING
    code.send(cancels=(1,))
    assert task_of(world, key).status == TaskStatus.CANCELLED


@pytest.mark.parametrize("ends", ["open", "retry", "rewind"])
def test_what_is_done_anew_is_a_new_task(world: World, ends: str) -> None:
    """A retry redoes the wait that was cut short or cancelled, a rewind also one that was done."""
    code, key = asked(world)
    first = task_of(world, key).task_id
    if ends == "open":
        do(world, rewind(world, key, 1))
    elif ends == "retry":
        cancel(world, key)
        code.end(End(Phase.FAILED, failure=Failure("no")))
        do(world, retry(world, key))
    else:
        claim(world, key)
        complete(world, key)
        do(world, rewind(world, key, 1))
    world.check()
    assert not [place for place in world.store.closed_steps if place[0] == key]
    ordinal = Code(world, key).run("approve", TASK, waiting=True)
    assert task_of(world, key, ordinal).task_id != first
    assert task_of(world, key, ordinal).status == TaskStatus.PENDING
    assert not task_of(world, key).is_active


def test_an_attempt_of_the_run_begins_without_its_tasks(world: World) -> None:
    details = RunDetails(retry=RetryPolicy(initial_seconds=0.0, maximum_attempts=2))
    code, key = asked(world, details=details)
    code.end(End(Phase.FAILED, failure=Failure("no")))
    world.check()
    assert world.run(key).phase == Phase.PENDING
    assert task_of(world, key).status == TaskStatus.CANCELLED


def test_a_deleted_task_is_cancelled_first(world: World) -> None:
    code, key = asked(world)
    assert world.do(DeleteUserTask(world.ref(key), 1))
    world.check()
    assert world.ended(key, 1).state == StepState.FAILED
    assert not world.store.user_tasks.rows
    assert not world.do(DeleteUserTask(world.ref(key), 1))
    with pytest.raises(errors.UserTaskNotFound):
        world.do(ClaimUserTask(world.ref(key), 1, UUID(int=1), "ann"))
    code.run("again", TASK, waiting=True, resident=True)
    claim(world, key, ordinal=2)
    complete(world, key, ordinal=2)
    code.run("end", local())
    code.end()
    assert world.do(DeleteUserTask(world.ref(key), 2))
    assert not world.store.user_tasks.rows


def test_commands_of_one_batch_are_decided_in_their_order(world: World) -> None:
    _, key = asked(world)
    ref, task_id = world.ref(key), task_of(world, key).task_id
    answers = world.batch(
        ClaimUserTask(ref, 1, task_id, "ann"),
        ClaimUserTask(ref, 1, task_id, "bob"),
        CompleteUserTask(ref, 1, task_id, "bob", json("1")),
        CompleteUserTask(ref, 1, task_id, "ann", json("2")),
        CompleteUserTask(ref, 1, task_id, "ann", json("2")),
        TerminateRun(ref, "over"),
    )
    world.check()
    assert [type(each).__name__ for each in answers] == [
        *("TaskAnswer", "UserTaskStateConflict", "UserTaskStateConflict", "TaskAnswer", "TaskAnswer", "Steered")
    ]
    assert [each.done for each in answers if isinstance(each, TaskAnswer)] == [True, True, False]
    assert task_of(world, key).status == TaskStatus.COMPLETED
