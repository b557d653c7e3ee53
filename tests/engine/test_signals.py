"""Signals: kept, taken in the order of their arrival, recognised when they come again; nobody sleeps through one."""

from __future__ import annotations

import pytest
from tests.engine.code import Code, json, local
from tests.engine.world import World

from stepwell_server.engine.committer.loading import SIGNALS_AT_ONCE
from stepwell_server.engine.reported import NewTimer, NewWait
from stepwell_server.engine.signals import SignalRun
from stepwell_server.engine.timers import FireStep
from stepwell_server.model.runs import Phase
from stepwell_server.model.steps import result_event


def test_early_signals_are_kept_and_taken_in_order() -> None:
    """Each wait takes one, the oldest of its name; what is left stays."""
    world = World()
    key = world.start()
    for text in "123":
        world.do(SignalRun(world.ref(key), "go", json(text)))
    world.do(SignalRun(world.ref(key), "other", json("4")))
    code = Code(world, key)
    answer = code.send(code.call("w", NewWait("go")), code.call("w", NewWait("go")), waiting=True, resident=True)
    events = {event.number: event.payload for event in world.events(key)}
    assert [events[result_event(each.step)] for each in answer.ended] == [b"1", b"2"]
    assert [signal.event for signal in world.store.signals.values() if not signal.consumed] == [4, 5]
    world.check()


def test_waits_are_served_in_the_order_of_their_calls() -> None:
    """The step that has waited longest gets the signal."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(code.call("w", NewWait("go")), code.call("w", NewWait("go")), waiting=True, resident=True)
    for ordinal in (1, 2):
        world.do(SignalRun(world.ref(key), "go", json("1")))
        assert (key, ordinal) in world.store.closed_steps
        assert ((key, 2) in world.store.closed_steps) == (ordinal == 2)
    world.check()


@pytest.mark.parametrize("waits", [SIGNALS_AT_ONCE + 1, 2 * SIGNALS_AT_ONCE + 10])
def test_more_signals_than_are_loaded_at_once_are_taken_in_order(waits: int) -> None:
    """Also when a younger one comes in the same batch: it is taken last."""
    world = World()
    key = world.start()
    world.batch(*(SignalRun(world.ref(key), "go", json(str(number))) for number in range(waits - 1)))
    code = Code(world, key)
    progress = code.message(*(code.call("w", NewWait("go")) for _ in range(waits)), waiting=True, resident=True)
    _, answer = world.batch(SignalRun(world.ref(key), "go", json(str(waits - 1))), progress)
    events = {event.number: event.payload for event in world.events(key)}
    assert [events[result_event(each.step)] for each in answer.ended] == [str(n).encode() for n in range(waits)]
    assert all(signal.consumed for signal in world.store.signals.values())
    world.check()


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_a_repeated_signal_is_recognised(*, waits: bool, batched: bool) -> None:
    """By its id, whether it was kept or taken as it came, in the same batch or a later one."""
    world = World()
    key = world.start()
    if waits:
        Code(world, key).run("w", NewWait("go"), waiting=True, resident=True)
    order = SignalRun(world.ref(key), "go", json("1"), "id")
    answers = world.batch(order, order) if batched else [world.do(order), world.do(order)]
    assert [answer.recorded for answer in answers] == [True, False]
    assert answers[0].number == answers[1].number
    world.check()


def test_what_ends_while_the_code_runs_is_not_slept_through() -> None:
    """A run that gives itself up to wait is queued at once if something ended since it was granted."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.run("w", NewWait("go"))
    world.do(SignalRun(world.ref(key), "go", json("1")))
    code.run("l", local(), waiting=True)
    assert world.run(key).phase == Phase.RUNNING
    assert world.is_queued(key)


def test_what_ends_at_once_is_not_slept_through() -> None:
    """A run that gives itself up while its wait is answered on the spot is queued at once."""
    world = World()
    key = world.start()
    world.do(SignalRun(world.ref(key), "go", json("1")))
    code = Code(world, key)
    code.run("w", NewWait("go"), waiting=True)
    assert world.is_queued(key)


def test_a_wait_that_times_out_leaves_the_signal_that_comes_late() -> None:
    """Arrival and timeout are told apart, and a late signal is kept for the next wait."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(code.call("w", NewWait("go", timeout_seconds=5)), code.call("t", NewTimer(9)), waiting=True)
    world.advance(5)
    assert world.do(FireStep(world.ref(key), 1)) is True
    assert world.ended(key, 1).timed_out
    world.do(SignalRun(world.ref(key), "go", json("1")))
    (kept,) = world.store.signals.values()
    assert not kept.consumed
    assert world.is_queued(key)
    world.check()
