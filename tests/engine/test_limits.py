"""A run at its limit of events takes no new work, and all that it has under way still ends."""

from __future__ import annotations

import pytest
from tests.engine.code import Code, activity, complete, local
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.activities import FailActivity
from stepwell_server.engine.grants import ReturnTask
from stepwell_server.engine.limits import Limits
from stepwell_server.engine.reported import End, NewChild, NewTimer, NewWait
from stepwell_server.engine.runs import CancelRun, PauseRun, ResumeRun, TerminateRun
from stepwell_server.engine.signals import SignalRun
from stepwell_server.engine.timers import FireStep
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import NULL, Failure
from stepwell_server.model.runs import Phase
from stepwell_server.model.steps import RetryPolicy, StepState, Timeouts
from stepwell_server.model.tasks import TaskKind

EVENTS = 8


def full() -> tuple[World, int, Code]:
    """A run whose history is full, with a timer, a wait, a child and three activities under way."""
    world = World(Limits(events=EVENTS))
    key = world.start()
    code = Code(world, key)
    code.send(
        code.call("t", NewTimer(5)),
        code.call("w", NewWait("go", timeout_seconds=5)),
        code.call("c", NewChild("flow")),
        code.call("a", activity()),
        code.call("b", activity(timeouts=Timeouts(start_to_close=5))),
        code.call("d", activity(retry=RetryPolicy(maximum_attempts=5))),
        code.call("l", local()),
        waiting=True,
        resident=True,
    )
    assert world.run(key).last_event == EVENTS
    return world, key, code


def test_everything_under_way_ends_at_the_limit() -> None:
    """Timers fire, waits time out, activities complete and fail for good, children's ends arrive: nothing hangs."""
    world, key, _ = full()
    granted = {grant.step.ordinal: grant for grant in world.claim(TaskKind.ACTIVITY, ("act",)) if grant.step}
    token = world.step(key, 6).grants
    world.do(complete(world, granted[4]))
    world.advance(6)
    for ordinal in (1, 2, 5):
        assert world.do(FireStep(world.ref(key), ordinal)) is True
    world.do(FailActivity(world.ref(key), 6, world.session, token, Failure("no")))
    child = next(each for each in world.store.runs if each != key)
    world.do(TerminateRun(world.ref(child), ""))
    world.deliver()
    assert {ordinal: world.ended(key, ordinal).state for ordinal in range(1, 7)} == {
        1: StepState.COMPLETED,
        2: StepState.COMPLETED,
        3: StepState.FAILED,
        4: StepState.COMPLETED,
        5: StepState.FAILED,
        6: StepState.FAILED,
    }
    assert world.run(key).open_steps == 0


@pytest.mark.parametrize("counts", [True, False])
def test_what_is_held_returns_at_the_limit(counts: bool) -> None:
    """A worker's run and activity go back to their queues though history has no room to say so."""
    world, key, code = full()
    (first, *_) = world.claim(TaskKind.ACTIVITY, ("act",))
    assert first.step is not None
    token = first.step.grants
    back = ReturnTask(world.ref(key), first.step.ordinal, token, world.session, counts=counts, reason="lost")
    assert world.do(back) is True
    assert world.do(ReturnTask(world.ref(key), 0, code.token, world.session, counts=counts, reason="lost")) is True
    assert world.is_queued(key)
    assert world.is_queued(key, first.step.ordinal)
    assert world.run(key).last_event == EVENTS
    world.check()


def test_what_is_new_is_refused_at_the_limit() -> None:
    """Neither steps nor signals nor resumes make history longer without bound."""
    world, key, code = full()
    for body in (NewTimer(1), NewWait("x"), NewChild("flow"), activity(), local()):
        with pytest.raises(errors.LimitExceeded):
            code.send(code.call("n", body))
    with pytest.raises(errors.LimitExceeded):
        world.do(SignalRun(world.ref(key), "other", NULL))
    world.check()


def test_a_full_run_can_be_paused_cancelled_and_ended() -> None:
    """Steering reaches a run at its limit, and its code may end it."""
    world, key, code = full()
    world.do(CancelRun(world.ref(key), "enough"))
    code.send(end=End(Phase.FAILED, failure=Failure("full")))
    assert world.closed(key).phase == Phase.FAILED
    world.check()
    world, key, _ = full()
    world.do(PauseRun(world.ref(key), "look"))
    world.do(ResumeRun(world.ref(key), accept_order=False))
    assert world.is_queued(key)
    assert EventType.RUN_RESUMED in world.happened(key)


def test_the_limit_of_open_steps_refuses_the_whole_progress() -> None:
    """All or nothing: a progress that would go beyond the limit leaves none of its steps, children included."""
    world = World(Limits(open_steps=2))
    key = world.start()
    code = Code(world, key)
    with pytest.raises(errors.LimitExceeded):
        code.send(code.call("c", NewChild("flow")), code.call("t", NewTimer(1)), code.call("u", NewTimer(1)))
    assert list(world.store.runs) == [key]
    assert world.run(key).last_step == 0
    world.check()
