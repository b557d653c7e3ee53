"""Runs that come back: often enough in a row with nothing recorded in between, and they are paused."""

from __future__ import annotations

import pytest
from tests.engine.code import Code, activity, complete, local
from tests.engine.world import World

from stepwell_server.engine.grants import ReturnTask
from stepwell_server.engine.limits import Limits
from stepwell_server.engine.runs import ResumeRun
from stepwell_server.model.events import EventType
from stepwell_server.model.runs import WORKER_LOST, unpack_details


def comes_back(world: World, key: int, *, counts: bool = False) -> None:
    """A worker gets the run, and gives it back, or is lost."""
    assert world.grant(key) is not None
    run = world.run(key)
    order = ReturnTask(world.ref(key), 0, run.grants, world.session, counts, "session expired")
    assert world.do(order) is True
    world.check()


@pytest.mark.parametrize("counts", [False, True], ids=["given back", "lost"])
def test_a_run_that_comes_back_ten_times_in_a_row_is_paused(counts: bool) -> None:
    """It may be what its workers die of: it does not go round for ever."""
    world = World()
    key = world.start()
    for returns in range(1, Limits().returns):
        comes_back(world, key, counts=counts)
        assert world.run(key).returns == returns
        assert world.is_queued(key)
    comes_back(world, key, counts=counts)
    run = world.run(key)
    assert (run.pause_reason, run.session_id) == (WORKER_LOST, None)
    details = unpack_details(run.details)
    assert details.pause_details == (
        "it came back 10 times in a row with nothing recorded, the last time from worker worker: session expired"
    )
    assert details.pause_time == world.now
    assert not world.is_queued(key)
    assert world.grant(key) is None
    assert world.happened(key).count(EventType.RUN_INTERRUPTED) == (10 if counts else 0)
    assert world.happened(key)[-1] == EventType.RUN_PAUSED


def test_it_goes_on_when_it_is_resumed_and_is_counted_anew() -> None:
    world = World(Limits(returns=2))
    key = world.start()
    for _ in range(2):
        comes_back(world, key)
    assert world.do(ResumeRun(world.ref(key), accept_order=False)).accepted
    assert world.is_queued(key)
    comes_back(world, key)
    assert world.run(key).pause_reason is None
    comes_back(world, key)
    assert world.run(key).pause_reason == WORKER_LOST


@pytest.mark.parametrize("what", ["a step", "that it waits"])
def test_a_run_that_gets_on_is_counted_anew(what: str) -> None:
    """Its worker may die again and again, as long as something is accepted in between."""
    world = World(Limits(returns=2))
    key = world.start()
    for turn in range(6):
        code = Code(world, key)
        for past in range(turn if what == "a step" else 0):
            code.passed(code.call(f"a{past}", local()))
        if what == "a step":
            code.run(f"a{turn}", local())
        else:
            code.send(waiting=True, resident=True)
        assert world.run(key).returns == 0
        run = world.run(key)
        world.do(ReturnTask(world.ref(key), 0, run.grants, world.session, counts=True, reason="lost"))
        assert world.run(key).pause_reason is None


def test_what_a_paused_run_waited_for_is_recorded_meanwhile() -> None:
    world = World(Limits(returns=1))
    key = world.start()
    code = Code(world, key)
    code.run("a", activity())
    grant = world.grant(key, 1)
    assert grant is not None
    world.do(ReturnTask(world.ref(key), 0, code.token, world.session, counts=True, reason="lost"))
    assert world.run(key).pause_reason == WORKER_LOST
    world.do(complete(world, grant))
    assert not world.is_queued(key)
    world.do(ResumeRun(world.ref(key), accept_order=False))
    assert world.is_queued(key)
    world.check()


def test_a_return_under_another_token_counts_for_nothing() -> None:
    world = World(Limits(returns=1))
    key = world.start()
    comes = ReturnTask(world.ref(key), 0, 7, world.session, counts=True, reason="lost")
    assert world.grant(key) is not None
    assert world.do(comes) is False
    assert (world.run(key).returns, world.run(key).pause_reason) == (0, None)
