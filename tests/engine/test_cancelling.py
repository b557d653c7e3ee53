"""A request to cancel reaches a run's activities: those at work are asked to stop, those that wait are never begun."""

from __future__ import annotations

import pytest
from tests.engine.code import Code, activity, complete, json
from tests.engine.world import World

from stepwell_server.engine.activities import CancelledActivity, FailActivity
from stepwell_server.engine.grants import ReturnTask
from stepwell_server.engine.reported import End, NewTimer
from stepwell_server.engine.runs import CancelRun
from stepwell_server.engine.timers import FireStep
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import Failure
from stepwell_server.model.runs import Phase
from stepwell_server.model.steps import RetryPolicy, StepState, Timeouts
from stepwell_server.model.tasks import Grant


def at_work(world: World, **fields: object) -> tuple[int, Code, Grant]:
    """A run whose activity a worker has; the run itself waits in its own worker's memory."""
    key = world.start()
    code = Code(world, key)
    code.run("a", activity(**fields), waiting=True, resident=True)
    grant = world.grant(key, 1)
    assert grant is not None
    return key, code, grant


def cancel(world: World, key: int) -> list[tuple[int, int, str]]:
    """Asks the run to cancel; answers which activities' workers are told, under which token, and why."""
    assert world.do(CancelRun(world.ref(key), "enough")).accepted
    assert world.last is not None
    return [(ordinal, token, reason) for _, ordinal, token, reason in world.last.subjects.runs[key].news.cancels]


def stopped(world: World, grant: Grant) -> CancelledActivity:
    """The report of the worker that it did as it was asked."""
    assert grant.step is not None
    return CancelledActivity(world.ref(grant.run.run_key), 1, grant.session_id, grant.step.grants, json("1"))


def failed(world: World, grant: Grant) -> FailActivity:
    assert grant.step is not None
    return FailActivity(world.ref(grant.run.run_key), 1, grant.session_id, grant.step.grants, Failure("no"))


def test_who_is_at_it_is_asked_to_stop() -> None:
    """The step stays open until the worker says what came of it: that it stopped, or what it came to all the same."""
    for said, state in (("cancelled", StepState.CANCELLED), ("complete", StepState.COMPLETED)):
        world = World()
        key, code, grant = at_work(world)
        assert cancel(world, key) == [(1, 1, "enough")]
        assert world.step(key, 1).cancel_requested
        assert world.step(key, 1).state == StepState.RUNNING
        order = complete(world, grant) if said == "complete" else stopped(world, grant)
        world.do(order)
        assert world.ended(key, 1).state == state
        assert world.last is not None
        assert [ended.step.ordinal for ended in world.last.subjects.runs[key].news.ended] == [1]
        code.end(End(Phase.CANCELLED))
        world.check()


def test_what_waits_is_never_begun() -> None:
    """In its queue, or between attempts; the run's code hears of it together with the request."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(
        code.call("a", activity()), code.call("b", activity()), code.call("t", NewTimer(9)), waiting=True, resident=True
    )
    grant = world.grant(key, 1)
    assert grant is not None
    world.do(failed(world, grant))
    assert cancel(world, key) == []
    assert [world.ended(key, ordinal).state for ordinal in (1, 2)] == [StepState.CANCELLED] * 2
    assert not [place for place in world.store.tasks if place[1]]
    assert world.last is not None
    news = world.last.subjects.runs[key].news
    assert (news.run_cancel, len(news.ended)) == (True, 2)
    assert world.step(key, 3).state == StepState.WAITING
    world.check()


def test_what_is_shielded_goes_on() -> None:
    """In its queue or at work, with all its attempts; so does what is scheduled after the request."""
    world = World()
    key, code, grant = at_work(world, shielded=True)
    code.run("b", activity(shielded=True))
    assert cancel(world, key) == []
    code.run("clean up", activity())
    assert [world.step(key, ordinal).cancel_requested for ordinal in (1, 2, 3)] == [False] * 3
    assert [world.is_queued(key, ordinal) for ordinal in (1, 2, 3)] == [False, True, True]
    world.do(failed(world, grant))
    assert world.step(key, 1).state == StepState.PENDING
    assert world.step(key, 1).wake_time is not None
    world.check()


@pytest.mark.parametrize("how", ["fails", "lost", "released", "timed out"])
def test_what_was_asked_to_stop_has_no_other_attempt(how: str) -> None:
    """However the one at work ends; whoever waits for it hears so."""
    world = World()
    key, _, grant = at_work(
        world, retry=RetryPolicy(initial_seconds=0.0), timeouts=Timeouts(start_to_close=5, schedule_to_close=100)
    )
    cancel(world, key)
    world.advance(6)
    if how == "fails":
        world.do(failed(world, grant))
    elif how == "timed out":
        world.do(FireStep(world.ref(key), 1))
    else:
        assert world.do(ReturnTask(world.ref(key), 1, 1, world.session, counts=how == "lost", reason=how)) is True
    assert world.ended(key, 1).state == StepState.CANCELLED
    assert world.run(key).dirty
    world.check()


def test_asking_again_tells_nobody_again() -> None:
    world = World()
    key, _, _ = at_work(world)
    cancel(world, key)
    assert not world.do(CancelRun(world.ref(key), "more")).accepted
    assert world.write is None
    assert world.happened(key).count(EventType.RUN_CANCEL_REQUESTED) == 1


def test_the_code_may_ask_an_activity_to_stop() -> None:
    """One at work is told, one that waits ends. Shielded ones too, and nothing but activities."""
    world = World()
    key, code, grant = at_work(world, shielded=True)
    code.send(code.call("b", activity(shielded=True)), code.call("t", NewTimer(9)), waiting=True, resident=True)
    answer = code.send(stops=(1, 2, 3), waiting=True, resident=True)
    assert [(ended.step.ordinal, ended.step.state) for ended in answer.ended] == [(2, StepState.CANCELLED)]
    assert world.last is not None
    news = world.last.subjects.runs[key].news
    assert [(ordinal, token) for _, ordinal, token, _ in news.cancels] == [(1, 1)]
    assert world.step(key, 3).state == StepState.WAITING
    assert code.send(stops=(1, 2), waiting=True, resident=True).ended == []
    assert not world.last.subjects.runs[key].news.cancels
    world.do(stopped(world, grant))
    assert world.ended(key, 1).state == StepState.CANCELLED
    world.check()


def test_a_run_that_gives_itself_up_does_not_sleep_through_what_it_stopped() -> None:
    """What ended with its own progress queues it, as nobody else will tell it."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.run("a", activity())
    code.send(stops=(1,), waiting=True)
    assert world.is_queued(key)
    world.check()
