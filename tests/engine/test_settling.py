"""Settling open steps by hand, against every state and every report of whoever was at them."""

from __future__ import annotations

import pytest
from tests.engine.code import Code, json
from tests.engine.test_activities import granted, reports, scheduled
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.mending import StepName
from stepwell_server.engine.reported import NewTimer, NewWait
from stepwell_server.engine.runs import PauseRun, ResumeRun
from stepwell_server.engine.settling import SETTLED, EndStep, RetryStepNow, Settled
from stepwell_server.engine.signals import SignalRun
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import NULL, Failure
from stepwell_server.model.steps import RetryPolicy, StepState

FIRST = StepName(1)
BY_HAND = json('"by hand"')
OUTCOMES = {
    StepState.COMPLETED: {"payload": BY_HAND},
    StepState.FAILED: {"failure": Failure("no", "Settled")},
    StepState.SKIPPED: {},
}


def end(world: World, key: int, state: StepState = StepState.COMPLETED, step: StepName = FIRST) -> EndStep:
    return EndStep(world.ref(key), step, state, "why", **OUTCOMES[state])  # type: ignore[arg-type]


@pytest.mark.parametrize("state", OUTCOMES)
@pytest.mark.parametrize("is_held", [True, False])
def test_what_its_worker_reports_later_is_refused(state: StepState, is_held: bool) -> None:
    """Also what would have come to the same."""
    world, key = scheduled()
    grant = granted(world, key) if is_held else None
    assert world.do(end(world, key, state)) == Settled(accepted=True, ordinal=1, state=state)
    assert world.ended(key, 1).state == state
    assert not world.is_queued(key, 1)
    assert world.last is not None
    revokes = world.last.subjects.runs[key].news.revokes
    if grant is None:
        assert not revokes
    else:
        assert revokes == [(grant.session_id, 1, grant.token, SETTLED)]
        for report in reports(world, key, grant).values():
            with pytest.raises(errors.LeaseLost):
                world.do(report)
    event = world.events(key)[-1]
    assert (event.type, event.step_ordinal) == (EventType[f"STEP_{state.name}"], 1)
    world.check()


def test_a_retry_takes_it_from_its_worker() -> None:
    world, key = scheduled(RetryPolicy())
    grant = granted(world, key)
    assert world.do(RetryStepNow(world.ref(key), FIRST, "why")).accepted
    assert world.last is not None
    assert world.last.subjects.runs[key].news.revokes == [(grant.session_id, 1, grant.token, SETTLED)]
    assert world.is_queued(key, 1)
    assert not world.do(RetryStepNow(world.ref(key), FIRST, "why")).accepted
    again = granted(world, key)
    assert again.token > grant.token
    assert again.step is not None
    assert again.step.attempt == 2
    for report in reports(world, key, grant).values():
        with pytest.raises(errors.LeaseLost):
            world.do(report)
    world.check()


def test_one_that_is_delayed_is_tried_at_once() -> None:
    world, key = scheduled(RetryPolicy(initial_seconds=3600))
    world.do(reports(world, key, granted(world, key))["fail"])
    assert not world.is_queued(key, 1)
    assert world.do(RetryStepNow(world.ref(key), FIRST, "why")) == Settled(
        accepted=True, ordinal=1, state=StepState.PENDING
    )
    assert world.is_queued(key, 1)
    world.check()


def test_waits_and_timers() -> None:
    """A signal that comes later is kept for whoever waits next."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(code.call("paid", NewWait("paid")), code.call("timer", NewTimer(60.0)), waiting=True)
    assert world.do(end(world, key, StepState.SKIPPED)).accepted
    with pytest.raises(errors.StepStateConflict):
        world.do(end(world, key, StepState.FAILED, StepName(2)))
    with pytest.raises(errors.StepStateConflict):
        world.do(RetryStepNow(world.ref(key), StepName(2), ""))
    assert world.do(end(world, key, StepState.COMPLETED, StepName(0, name="timer"))).ordinal == 2
    assert world.is_queued(key)
    world.do(SignalRun(world.ref(key), "paid", NULL))
    assert world.ended(key, 1).state == StepState.SKIPPED
    world.check()


def test_a_paused_run_hears_of_it_when_it_is_resumed() -> None:
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(code.call("paid", NewWait("paid")), waiting=True)
    world.do(PauseRun(world.ref(key), "for a look"))
    world.do(end(world, key))
    assert not world.is_queued(key)
    world.do(ResumeRun(world.ref(key), accept_order=False))
    assert world.is_queued(key)
    world.check()


def test_what_is_not_open_or_not_the_services_is_refused() -> None:
    world, key = scheduled()
    with pytest.raises(errors.StepNotFound):
        world.do(end(world, key, step=StepName(2)))
    with pytest.raises(errors.StepNotFound):
        world.do(end(world, key, step=StepName(0, scope="1", name="a")))
    world.do(end(world, key))
    for again in (end(world, key), RetryStepNow(world.ref(key), FIRST, "")):
        with pytest.raises(errors.StepStateConflict):
            world.do(again)
    driven = world.start(driven=True)
    with pytest.raises(errors.RunDriven):
        world.do(end(world, driven))
