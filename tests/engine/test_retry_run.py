"""Retrying a run that has ended badly: it goes on from its record, and what failed or was cut short is done anew."""

from __future__ import annotations

import pytest
from tests.engine.code import COMPLETED, Code, activity, complete, local
from tests.engine.mended import do, names_of, replayed, retry, steps_of
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.activities import FailActivity
from stepwell_server.engine.committer import loading
from stepwell_server.engine.reported import Checkpoint, End, NewChild, NewTimer, NewWait, Successor
from stepwell_server.engine.runs import CancelRun, LookAtRun, TerminateRun
from stepwell_server.engine.signals import SignalRun
from stepwell_server.engine.starts import NewRun, StartRun
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import NULL, Failure
from stepwell_server.model.runs import Phase, RunDetails
from stepwell_server.model.steps import Kind, RetryPolicy, StepState
from stepwell_server.model.tasks import TaskKind

FAILED = End(Phase.FAILED, failure=Failure("no"))
BROKEN = Checkpoint(NULL, Failure("no"))


def test_completed_steps_stay_and_failed_ones_are_done_anew() -> None:
    """The mended code is answered what was done, does what failed under a new ordinal, and completes."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.run("a", local("1"))
    code.run("b", BROKEN)
    code.end(FAILED)
    world.advance(60)
    assert do(world, retry(world, key)) == [2]
    run = world.run(key)
    assert (run.phase, run.queued, run.last_step, run.order_count) == (Phase.RUNNING, True, 2, 1)
    assert key not in world.store.closed_runs
    world.check()
    code = replayed(world, key)
    assert code.token == 2
    assert code.run("b", local("2")) == 3
    code.end()
    assert world.closed(key).phase == Phase.COMPLETED
    assert [step.name for step in steps_of(world, key)] == ["a", "b"]
    kinds = world.happened(key)
    assert kinds[kinds.index(EventType.RUN_FAILED) + 1] == EventType.RUN_RETRIED
    world.check()


def test_what_the_end_cut_short_is_done_anew_and_what_the_code_gave_up_is_not() -> None:
    """Steps that were open at the end go from the record; a race's loser stays given up."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(
        code.call("won", local(), "1"),
        code.call("lost", NewTimer(9), "2"),
        code.call("open", activity(), "3"),
        code.call("wait", NewWait("go"), "4"),
    )
    code.send(cancels=(2,))
    code.send(end=FAILED)
    assert do(world, retry(world, key)) == [3, 4]
    assert [(step.name, step.state) for step in steps_of(world, key)] == [
        ("won", StepState.COMPLETED),
        ("lost", StepState.CANCELLED),
    ]
    assert {path: scope.order_count for (_, path), scope in world.store.scopes.items()} == {
        "1": 1,
        "2": 1,
        "3": 0,
        "4": 0,
    }
    code = replayed(world, key)
    code.send(code.call("open", activity(), "3"), code.call("wait", NewWait("go"), "4"))
    assert world.is_queued(key, 5)
    world.check()


def test_one_failed_branch_of_many_is_done_anew() -> None:
    """Of a fan-out only what failed is done again; what its worker says of the former attempt is refused."""
    world = World()
    key = world.start()
    code = Code(world, key)
    once = RetryPolicy(maximum_attempts=1)
    code.send(
        *(code.call("act", activity(retry=once), str(branch)) for branch in range(1, 4)), waiting=True, resident=True
    )
    first, second, third = world.claim(TaskKind.ACTIVITY, ("act",))
    for held in (first, third):
        world.do(complete(world, held))
    assert second.step is not None
    broken = FailActivity(world.ref(key), 2, second.session_id, second.step.grants, Failure("no"))
    world.do(broken)
    code.end(FAILED)
    assert do(world, retry(world, key)) == [2]
    with pytest.raises(errors.LeaseLost):
        world.do(broken)
    code = replayed(world, key)
    code.send(code.call("act", activity(retry=once), "2"), waiting=True, resident=True)
    (again,) = world.claim(TaskKind.ACTIVITY, ("act",))
    world.do(complete(world, again))
    code.send(end=COMPLETED, also=("1", "2", "3"), closed=True)
    assert world.closed(key).phase == Phase.COMPLETED


def test_named_steps_go_with_what_came_of_them() -> None:
    """A failure that the code got past is meant only by name, and only what failed can be."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(code.call("a", local()), code.call("b", BROKEN), code.call("c", local()), end=FAILED)
    with pytest.raises(errors.StepStateConflict):
        world.do(retry(world, key, 2, 3))
    with pytest.raises(errors.StepNotFound):
        world.do(retry(world, key, 4))
    assert world.closed(key).phase == Phase.FAILED
    assert do(world, retry(world, key, 2)) == [2, 3]
    assert names_of(world, key) == ["a"]
    world.check()


def test_without_failed_steps_the_code_just_runs_again() -> None:
    """A fault of the code between its steps leaves nothing to take out."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(code.call("a", local()), code.call("b", BROKEN), code.call("c", local()), end=FAILED)
    assert do(world, retry(world, key)) == []
    assert names_of(world, key) == ["a", "b", "c"]
    replayed(world, key).end()
    assert world.closed(key).phase == Phase.COMPLETED


@pytest.mark.parametrize("ends", ["terminated", "timed out", "cancelled before it began"])
def test_every_bad_end_may_be_retried(ends: str) -> None:
    """The deadline counts anew, and nobody's request to cancel is left."""
    world = World()
    key = world.start(timeout_seconds=50, details=RunDetails(maximum_run_seconds=60))
    if ends == "cancelled before it began":
        world.do(CancelRun(world.ref(key), "no need"))
    else:
        Code(world, key).run("t", NewTimer(1000), waiting=True, resident=True)
        world.advance(70)
        world.do(LookAtRun(world.ref(key)) if ends == "timed out" else TerminateRun(world.ref(key), "enough"))
    assert world.closed(key).phase in (Phase.TERMINATED, Phase.TIMED_OUT, Phase.CANCELLED)
    do(world, retry(world, key))
    run = world.run(key)
    assert run.phase == (Phase.PENDING if ends == "cancelled before it began" else Phase.RUNNING)
    assert (run.cancel_time, run.cancel_reason) == (None, None)
    assert run.deadline is not None
    assert (run.deadline - world.now).total_seconds() == 50
    assert run.wake_time == run.deadline
    world.advance(49)
    assert world.do(LookAtRun(world.ref(key))) is False
    world.advance(2)
    assert world.do(LookAtRun(world.ref(key))) is True
    assert world.closed(key).phase == Phase.TIMED_OUT
    do(world, retry(world, key))
    again = world.run(key)
    assert again.deadline is not None
    assert (again.deadline - world.now).total_seconds() == 50
    world.check()


def test_a_cancelled_run_forgets_that_it_saw_the_cancellation() -> None:
    """The sighting, what was given up for it and the clean-up go: else the code would meet its cancellation again."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(
        code.call("b", local(), "1"),
        code.call("a", local()),
        code.call("w", NewWait("go")),
        waiting=True,
        resident=True,
    )
    world.advance(1)
    world.do(CancelRun(world.ref(key), "stop"))
    code.send(
        code.call("__cancelled", local('"wait"'), kind=Kind.MARKER),
        code.call("clean up", local()),
        code.call("__cancelled", local('"call"'), "1", kind=Kind.MARKER),
        cancels=(3,),
        end=End(Phase.CANCELLED),
    )
    assert do(world, retry(world, key)) == [3, 4, 5, 6]
    assert names_of(world, key) == ["b", "a"]
    assert world.run(key).cancel_time is None
    world.check()


@pytest.mark.parametrize("phase", [Phase.COMPLETED, None])
def test_only_a_bad_end_is_retried(phase: Phase | None) -> None:
    world = World()
    key = world.start()
    if phase is not None:
        Code(world, key).end()
    with pytest.raises(errors.RunPhaseConflict):
        world.do(retry(world, key))


def test_a_run_that_goes_on_as_another_is_not_opened_again() -> None:
    world = World()
    key = world.start()
    Code(world, key).end(End(Phase.COMPLETED, successor=Successor(NULL)))
    with pytest.raises(errors.RunPhaseConflict):
        world.do(retry(world, key))


def test_signals_that_no_kept_step_took_are_there_again() -> None:
    """Those that went with the end of the run, and those that a step which is done anew had taken, in their order."""
    world = World()
    key = world.start()
    for value in ("1", "2", "3"):
        world.do(SignalRun(world.ref(key), "go", NULL, value))
    code = Code(world, key)
    code.send(code.call("w", NewWait("go")), code.call("b", BROKEN), code.call("w", NewWait("go")))
    world.do(SignalRun(world.ref(key), "other", NULL))
    code.end(FAILED)
    assert do(world, retry(world, key, 2)) == [2, 3]
    kept = sorted(signal.ordinal for signal in world.store.signals.values() if not signal.consumed)
    assert kept == [2, 3, 4]
    code = replayed(world, key)
    answer = code.send(code.call("b", local()), code.call("w", NewWait("go")), code.call("o", NewWait("other")))
    assert len(answer.ended) == 2
    assert world.ended(key, 5).input_event == world.store.signals[key, 2].event
    assert not world.do(SignalRun(world.ref(key), "go", NULL, "2")).recorded
    world.check()


def test_the_name_is_the_runs_again_unless_an_open_run_bears_it() -> None:
    """Of one workflow id one run is open."""
    world = World()
    key = world.start(workflow_id="w")
    Code(world, key).end(FAILED)
    newer = world.start(workflow_id="w")
    with pytest.raises(errors.WorkflowIdInUse):
        world.do(retry(world, key))
    Code(world, newer).end()
    do(world, retry(world, key))
    assert world.store.names["w", 1] == (key, 2)
    start = StartRun(NewRun(1, "main", "flow", "q", workflow_id="w"))
    with pytest.raises(errors.WorkflowIdInUse):
        world.do(start)


def test_a_start_in_the_same_batch_is_not_given_the_same_name() -> None:
    """One of the two is refused, whichever is decided first."""
    world = World()
    key = world.start(workflow_id="w")
    Code(world, key).end(FAILED)
    answers = world.batch(retry(world, key), StartRun(NewRun(1, "main", "flow", "q", workflow_id="w")))
    assert [isinstance(answer, errors.WorkflowIdInUse) for answer in answers].count(True) == 1
    assert len(world.store.runs) == 1
    world.check()


def test_opened_and_ended_in_one_batch() -> None:
    """The run is closed again, with a history that tells of both."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.run("t", NewTimer(5))
    code.end(FAILED)
    world.batch(retry(world, key), TerminateRun(world.ref(key), "no"))
    assert world.closed(key).phase == Phase.TERMINATED
    assert world.happened(key)[-2:] == [EventType.RUN_RETRIED, EventType.RUN_TERMINATED]
    world.check()


def test_the_parent_hears_once() -> None:
    """What it was told of its child's end stands, whatever comes of the child later."""
    world = World()
    parent = world.start()
    code = Code(world, parent)
    code.run("c", NewChild("flow"), waiting=True, resident=True)
    child = parent + 1
    Code(world, child).end(FAILED)
    world.deliver()
    assert world.ended(parent, 1).state == StepState.FAILED
    do(world, retry(world, child))
    Code(world, child).end()
    world.deliver()
    assert world.ended(parent, 1).state == StepState.FAILED
    code.end(FAILED)
    assert do(world, retry(world, parent)) == [1]
    world.check()


@pytest.mark.parametrize("letter", ["read meanwhile", "under way"])
def test_a_run_that_ended_before_it_had_its_signals_begins(monkeypatch: pytest.MonkeyPatch, letter: str) -> None:
    """It does not wait for ever for what a letter was to bring; what that still brings, it gets."""
    monkeypatch.setattr(loading, "MOST_CARRIED", 2)
    world = World()
    old = world.start(workflow_id="w")
    for _ in range(5):
        world.do(SignalRun(world.ref(old), "go", NULL))
    Code(world, old).end(End(Phase.COMPLETED, successor=Successor(NULL)))
    key = old + 1
    assert not world.is_queued(key)
    world.do(TerminateRun(world.ref(key), "enough"))
    if letter == "read meanwhile":
        world.deliver()
    do(world, retry(world, key))
    assert not world.is_queued(key)
    world.deliver()
    assert world.is_queued(key)
    kept = [place for place, signal in world.store.signals.items() if not signal.consumed]
    assert kept == ([] if letter == "read meanwhile" else [(key, ordinal) for ordinal in range(1, 6)])
    world.check()
