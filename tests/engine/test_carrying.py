"""Continue-as-new: signals that nobody took go along, in their order and with their ids, and so does a cancellation."""

from __future__ import annotations

import pytest
from tests.engine.code import Code, json
from tests.engine.world import MAIN, World

from stepwell_server import errors
from stepwell_server.engine.committer import loading
from stepwell_server.engine.reported import End, NewWait, Successor
from stepwell_server.engine.runs import CancelRun, LookAtRun, PauseRun, ResumeRun, TerminateRun
from stepwell_server.engine.signals import Signalled, SignalRun
from stepwell_server.engine.starts import Conflict, NewRun, StartRun
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import Phase, RunRef, unpack_details
from stepwell_server.model.steps import Step, result_event

ON = End(Phase.COMPLETED, successor=Successor(NULL))
BY_NAME = RunRef(MAIN, "main", workflow_id="w")


def signal(world: World, key: int, name: str, text: str, signal_id: str | None = None) -> Signalled:
    answer = world.do(SignalRun(world.ref(key), name, json(text), signal_id))
    assert isinstance(answer, Signalled)
    return answer


def waiting(world: World, key: int, name: str) -> list[bytes | None]:
    """What the signals of that name carry that nobody has taken, in the order in which waits will get them."""
    kept = sorted((ordinal, each) for (run, ordinal), each in world.store.signals.items() if run == key)
    left = [each for _, each in kept if each.name == name and not each.consumed]
    return [world.events(key)[each.event - 1].payload for each in left]


def took(world: World, key: int, ordinal: int) -> bytes | None:
    return world.events(key)[result_event(world.ended(key, ordinal)) - 1].payload


def test_what_nobody_took_goes_along() -> None:
    """In its order, with what it carries, behind nothing that comes later; what was taken stays."""
    world = World()
    old = world.start(workflow_id="w")
    for name, text in (("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")):
        signal(world, old, name, text)
    code = Code(world, old)
    code.run("w", NewWait("a"))
    code.end(ON)
    new = old + 1
    assert world.is_queued(new)
    assert waiting(world, new, "a") == [b"3", b"4"]
    assert waiting(world, new, "b") == [b"2"]
    assert not [place for place in world.store.signals if place[0] == old]
    signal(world, new, "a", "5")
    code = Code(world, new)
    code.send(*(code.call("w", NewWait("a")) for _ in range(3)), code.call("v", NewWait("b")))
    assert [took(world, new, ordinal) for ordinal in (1, 2, 3, 4)] == [b"3", b"4", b"5", b"2"]
    assert world.happened(new)[1:4] == [EventType.SIGNAL_RECEIVED] * 3
    world.check()


def test_a_repeat_is_recognised_along_the_chain() -> None:
    """Whichever run took the signal, or has yet to, and whichever is named; only what is new to all is recorded."""
    world = World()
    old = world.start(workflow_id="w")
    taken, left = signal(world, old, "a", "1", "taken"), signal(world, old, "a", "2", "left")
    code = Code(world, old)
    code.run("w", NewWait("a"))
    code.end(ON)
    for ref in (world.ref(old), world.ref(old + 1), BY_NAME):
        for signal_id, number in (("taken", taken.number), ("left", None)):
            answer = world.do(SignalRun(ref, "a", json("9"), signal_id))
            assert not answer.recorded
            assert number in (None, answer.number)
    Code(world, old + 1).end(ON)
    assert not world.do(SignalRun(BY_NAME, "a", json("9"), "taken")).recorded
    assert world.do(SignalRun(BY_NAME, "a", json("9"), "new")).recorded
    assert waiting(world, old + 2, "a") == [b"2", b"9"]
    assert left.recorded
    world.check()


def test_all_in_one_batch() -> None:
    """A signal before the end goes along; behind it, the workflow id leads to the new run, the run id to a refusal."""
    world = World()
    old = world.start(workflow_id="w")
    signal(world, old, "a", "0", "zero")
    code = Code(world, old)
    code.run("w", NewWait("a"))
    before = SignalRun(world.ref(old), "a", json("1"), "one")
    answers = world.batch(
        before,
        code.message(end=ON),
        SignalRun(BY_NAME, "a", json("9"), "zero"),
        before,
        SignalRun(BY_NAME, "a", json("2"), "two"),
        SignalRun(world.ref(old), "a", json("9")),
    )
    assert [getattr(answer, "recorded", None) for answer in answers] == [True, None, False, False, True, None]
    assert isinstance(answers[-1], errors.SignalRefused)
    assert answers[4].run_id == world.run(old + 1).run_id
    assert waiting(world, old + 1, "a") == [b"1", b"2"]
    world.check()


def test_many_go_by_mail_a_slice_at_a_time() -> None:
    """The new run does not begin before it has them all, whatever else happens to it; what comes is behind them."""
    world = World()
    world.most_carried = 3
    old = world.start(workflow_id="w", timeout_seconds=100)
    for n in range(10):
        signal(world, old, "ab"[n % 2], str(n), f"id {n}")
    Code(world, old).end(ON)
    new = old + 1
    assert not world.is_queued(new)
    assert not world.do(SignalRun(BY_NAME, "a", json("9"), "id 7")).recorded
    signal(world, new, "a", "10", "id 10")
    world.batch(*world.letters())
    world.do(PauseRun(world.ref(new), ""))
    world.do(ResumeRun(world.ref(new), accept_order=False))
    world.do(LookAtRun(world.ref(new)))
    assert not world.is_queued(new)
    world.deliver()
    assert waiting(world, new, "a") == [b"0", b"2", b"4", b"6", b"8", b"10"]
    assert waiting(world, new, "b") == [b"1", b"3", b"5", b"7", b"9"]
    assert not [place for place in world.store.signals if place[0] == old]
    assert unpack_details(world.run(new).details).carried_from == 0
    world.check()


def test_with_the_last_slice_the_new_run_begins() -> None:
    """Unless it was paused; then it begins when it is resumed."""
    for paused in (False, True):
        world = World()
        world.most_carried = 1
        old = world.start()
        for n in range(3):
            signal(world, old, "a", str(n))
        Code(world, old).end(ON)
        if paused:
            world.do(PauseRun(world.ref(old + 1), ""))
        world.deliver()
        assert world.is_queued(old + 1) is not paused
        if paused:
            world.do(ResumeRun(world.ref(old + 1), accept_order=False))
        Code(world, old + 1)
        world.check()


def test_large_ones_go_by_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice is bounded in bytes, too, and holds at least one."""
    monkeypatch.setattr(loading, "MOST_CARRIED_BYTES", 10)
    world = World()
    old = world.start()
    for text in ("1" * 8, "2" * 8, "3" * 20):
        signal(world, old, "a", text)
    Code(world, old).end(ON)
    assert not world.is_queued(old + 1)
    world.batch(*world.letters())
    assert [text[:1] for text in waiting(world, old + 1, "a") if text] == [b"1"]
    world.deliver()
    assert [text[:1] for text in waiting(world, old + 1, "a") if text] == [b"1", b"2", b"3"]
    assert world.is_queued(old + 1)


def test_a_new_run_that_ends_before_it_has_them_all_leaves_nothing() -> None:
    """Only ids stay for a while, as after any end."""
    world = World()
    world.most_carried = 1
    old = world.start()
    for n in range(4):
        signal(world, old, "a", str(n), "id" if n == 3 else None)
    Code(world, old).end(ON)
    world.batch(*world.letters())
    world.do(TerminateRun(world.ref(old + 1), ""))
    world.deliver()
    assert [(each.signal_id, each.consumed) for each in world.store.signals.values()] == [("id", True)]


def test_a_request_to_cancel_goes_along() -> None:
    """The new run's code hears of it, although nobody had begun it; asking again is no news."""
    world = World()
    old = world.start(workflow_id="w")
    code = Code(world, old)
    world.do(CancelRun(world.ref(old), "enough"))
    code.end(ON)
    run = world.run(old + 1)
    assert (run.cancel_reason, run.cancel_time) == ("enough", world.now)
    assert world.is_queued(old + 1)
    assert EventType.RUN_CANCEL_REQUESTED in world.happened(old + 1)
    assert not world.do(CancelRun(BY_NAME, "more")).accepted
    grant = world.grant(old + 1)
    assert grant is not None
    assert grant.run.cancel_reason == "enough"
    world.check()


def test_a_chain_that_was_begun_hears_of_its_cancellation() -> None:
    """A run that continues another is not ended at once: its code may have to clean up after the one before."""
    world = World()
    old = world.start(workflow_id="w")
    Code(world, old).end(ON)
    assert world.do(CancelRun(BY_NAME, "enough")).accepted
    assert world.is_queued(old + 1)
    assert world.run(old + 1).cancel_reason == "enough"


def test_nobody_begins_a_cancelled_run_before_its_signals_have_come() -> None:
    world = World()
    world.most_carried = 1
    old = world.start()
    for n in range(3):
        signal(world, old, "a", str(n))
    code = Code(world, old)
    world.do(CancelRun(world.ref(old), "enough"))
    code.end(ON)
    assert world.run(old + 1).cancel_reason == "enough"
    assert not world.is_queued(old + 1)
    world.deliver()
    assert world.is_queued(old + 1)


def test_a_wait_of_the_new_run_gets_what_comes_after() -> None:
    """Ordinals go on where the old run's ended, so that the next signal has one of its own."""
    world = World()
    old = world.start()
    signal(world, old, "a", "1")
    Code(world, old).end(ON)
    code = Code(world, old + 1)
    code.send(code.call("w", NewWait("b")), waiting=True, resident=True)
    signal(world, old + 1, "b", "2")
    assert not isinstance(world.ended(old + 1, 1), Step)
    assert world.run(old + 1).last_signal == 2
    world.check()


@pytest.mark.parametrize("signal_id", ["x", None])
def test_who_takes_over_and_is_replaced_at_once_keeps_ids_only(signal_id: str | None) -> None:
    """The run that continues another ends in the batch in which it began: nobody takes its signals any more."""
    world = World()
    old = world.start(workflow_id="w")
    signal(world, old, "a", "1", signal_id)
    code = Code(world, old)
    new = NewRun(MAIN, "main", "flow", "q", workflow_id="w")
    world.batch(code.message(end=ON), StartRun(new, conflict=Conflict.TERMINATE_EXISTING))
    assert world.closed(old + 1).phase == Phase.TERMINATED
    assert [each.consumed for each in world.store.signals.values()] == ([True] if signal_id else [])
    world.check()
