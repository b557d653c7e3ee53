"""Rewinding a run: all that was recorded from a step on goes, in every branch, and the run goes on from there."""

from __future__ import annotations

import pytest
from tests.engine.code import COMPLETED, Code, activity, complete, local
from tests.engine.mended import do, names_of, replayed, rewind, steps_of
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.grants import GrantTask
from stepwell_server.engine.reported import End, NewChild, NewTimer, NewWait, Successor
from stepwell_server.engine.runs import CancelRun, PauseRun, ResumeRun
from stepwell_server.engine.signals import SignalRun
from stepwell_server.model.events import EventType
from stepwell_server.model.mail import Subject, unpack_letter
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import ORDER_CHANGED, Phase
from stepwell_server.model.steps import StepState
from stepwell_server.model.tasks import TaskKind


def recorded(*names: str) -> tuple[World, int, Code]:
    """A run that is held, and has recorded checkpoints of these names, in branches where a name says so: `1:a`."""
    world = World()
    key = world.start()
    code = Code(world, key)
    calls = [(name.partition(":")[2], name.partition(":")[0]) if ":" in name else (name, "") for name in names]
    code.send(*(code.call(name, local(), scope) for name, scope in calls))
    return world, key, code


def test_an_open_run_goes_back() -> None:
    """Its holder loses it, later steps of all branches go, counts and hashes are those of what is left."""
    world, key, code = recorded("a", "1:b", "2:c", "1:d", "e")
    assert do(world, rewind(world, key, 3)) == [3, 4, 5]
    assert world.last is not None
    assert world.last.subjects.runs[key].news.revokes == [(world.session, 0, code.token, "REWOUND")]
    with pytest.raises(errors.LeaseLost):
        code.run("f", local())
    assert names_of(world, key) == ["a", "b"]
    world.check()
    code = replayed(world, key)
    code.send(code.call("c", local(), "2"), code.call("d", local(), "1"), code.call("e", local()))
    assert [step.ordinal for step in steps_of(world, key)] == [1, 2, 6, 7, 8]
    code.send(end=COMPLETED, also=("1", "2"), closed=True)
    assert world.closed(key).phase == Phase.COMPLETED
    assert world.happened(key).count(EventType.RUN_REWOUND) == 1


def test_a_step_is_named_by_its_place_too() -> None:
    """Branch, name and occurrence or key; one that is not there is refused."""
    world, key, _ = recorded("a", "a", "1:a")
    for wrong in (
        {"name": "b"},
        {"name": "a", "occurrence": 2},
        {"name": "a", "scope": "2"},
        {"name": "a", "key": "k"},
    ):
        with pytest.raises(errors.StepNotFound):
            world.do(rewind(world, key, **wrong))
    assert do(world, rewind(world, key, name="a", scope="1")) == [3]
    assert do(world, rewind(world, key, name="a", occurrence=1)) == [2]


def test_open_steps_are_cancelled_their_workers_told_and_children_dealt_with() -> None:
    """Their tasks go, their workers stop, and a child ends as its policy says."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(
        code.call("a", local()),
        code.call("held", activity()),
        code.call("queued", activity(type="other")),
        *(code.call("c", NewChild("flow", close_policy=policy)) for policy in (1, 2, 3)),
        code.call("t", NewTimer(9)),
        waiting=True,
        resident=True,
    )
    (held,) = world.claim(TaskKind.ACTIVITY, ("act",))
    assert do(world, rewind(world, key, 2)) == [2, 3, 4, 5, 6, 7]
    assert world.last is not None
    news = world.last.subjects.runs[key].news
    assert [(session, ordinal) for session, ordinal, _, _ in news.cancels] == [(world.session, 2)]
    assert not news.ended
    assert [place for place in world.store.tasks if place[0] == key] == [(key, 0)]
    orders = {mail.run_key: unpack_letter(mail.body).subject for mail in world.store.mail.values()}
    assert orders == {key + 1: Subject.TERMINATE, key + 2: Subject.CANCEL}
    world.deliver()
    with pytest.raises(errors.LeaseLost):
        world.do(complete(world, held))
    assert world.run(key).open_steps == 0
    world.check()


def test_the_word_of_a_child_whose_step_is_gone_changes_nothing() -> None:
    """Its ordinal is never given again."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.run("c", NewChild("flow", close_policy=3), waiting=True, resident=True)
    child = key + 1
    do(world, rewind(world, key, 1))
    code = replayed(world, key)
    code.run("t", NewTimer(9), waiting=True, resident=True)
    Code(world, child).end()
    world.deliver()
    assert [step.state for step in steps_of(world, key)] == [StepState.WAITING]
    world.check()


@pytest.mark.parametrize("kept", [True, False])
def test_signals_taken_by_steps_that_go_come_back_in_their_order(*, kept: bool) -> None:
    """Whether they had waited for their step, or came when it waited for them."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.run("first", local())
    if kept:
        for _ in range(3):
            world.do(SignalRun(world.ref(key), "go", NULL))
    for _ in range(3):
        code.run("w", NewWait("go"), waiting=not kept, resident=True)
        if not kept:
            world.do(SignalRun(world.ref(key), "go", NULL))
    world.do(SignalRun(world.ref(key), "go", NULL))
    before = [world.ended(key, ordinal) for ordinal in (2, 3, 4)]
    events = [step.input_event or step.end_event for step in before]
    assert do(world, rewind(world, key, 3)) == [3, 4]
    code = replayed(world, key)
    for _ in range(3):
        code.run("w", NewWait("go"), waiting=True, resident=True)
    assert [world.ended(key, ordinal).input_event for ordinal in (5, 6)] == events[1:]
    assert world.ended(key, 7).input_event > events[2]
    world.check()


def test_taken_and_given_back_in_one_batch() -> None:
    """A signal is nobody's at the end, also if what took it was never written."""
    world = World()
    key = world.start()
    world.do(SignalRun(world.ref(key), "go", NULL, "x"))
    code = Code(world, key)
    world.batch(code.message(code.call("w", NewWait("go"))), rewind(world, key, 1))
    assert [signal.consumed for signal in world.store.signals.values()] == [False]
    replayed(world, key).run("w", NewWait("go"))
    world.check()


@pytest.mark.parametrize("signal_id", ["x", None])
def test_given_back_and_taken_again_in_one_batch(signal_id: str | None) -> None:
    """It is the new step's, whether its row had stayed or not."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.run("w", NewWait("go"), waiting=True, resident=True)
    world.do(SignalRun(world.ref(key), "go", NULL, signal_id))
    code = Code(world, key, granted=True)
    code.token += 1
    grant = GrantTask(world.ref(key), 0, world.session, "worker")
    message = code.message(code.call("w", NewWait("go")))
    _, _, answer = world.batch(rewind(world, key, 1), grant, message)
    assert len(answer.ended) == 1
    assert all(signal.consumed for signal in world.store.signals.values())
    world.check()


def test_an_ended_run_is_opened_again_also_one_that_completed() -> None:
    """What was cut short by its end goes, wherever it stood."""
    world, key, code = recorded("a", "1:b", "c", "d")
    code.send(code.call("t", NewTimer(5), "2"))
    code.send(end=COMPLETED, also=("1",), closed=True)
    assert world.ended(key, 5).state == StepState.CANCELLED
    assert do(world, rewind(world, key, 4)) == [4, 5]
    assert world.run(key).phase == Phase.RUNNING
    code = replayed(world, key)
    code.send(code.call("d", local()), end=COMPLETED, also=("1",), closed=True)
    assert world.closed(key).phase == Phase.COMPLETED
    world.check()


def test_a_cut_step_before_the_place_goes_too() -> None:
    """A timer of another branch that the end of the run cancelled is set again."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(code.call("t", NewTimer(5), "1"), code.call("a", local(), "2"), code.call("b", local(), "2"))
    code.end(End(Phase.FAILED))
    assert sorted(do(world, rewind(world, key, 3))) == [1, 3]
    assert names_of(world, key) == ["a"]
    world.check()


def test_a_persons_pause_stays_and_one_for_the_order_goes() -> None:
    """Going back mends the record; a person resumes what a person has paused."""
    world, key, _ = recorded("a", "b")
    world.do(PauseRun(world.ref(key), "look"))
    do(world, rewind(world, key, 2))
    assert (world.run(key).pause_reason, world.is_queued(key)) == ("look", False)
    world.do(ResumeRun(world.ref(key), accept_order=False))
    code = Code(world, key)
    with pytest.raises(errors.StepOrderChanged):
        code.run("other", local())
    assert world.run(key).pause_reason == ORDER_CHANGED
    do(world, rewind(world, key, 1))
    assert (world.run(key).pause_reason, world.is_queued(key)) == (None, True)
    Code(world, key).run("other", local())
    world.check()


def test_a_wish_to_cancel_an_open_run_stays() -> None:
    """Whoever asked is not forgotten by a rewind of the run."""
    world, key, _ = recorded("a", "b")
    world.do(CancelRun(world.ref(key), "stop"))
    do(world, rewind(world, key, 2))
    assert world.run(key).cancel_reason == "stop"


def test_what_cannot_be_rewound() -> None:
    """A run that goes on as another, and a driven one, which has a verb of its own."""
    world, key, code = recorded("a")
    code.end(End(Phase.COMPLETED, successor=Successor(NULL)))
    with pytest.raises(errors.RunContinued):
        world.do(rewind(world, key, 1))
    driven = world.start(driven=True)
    with pytest.raises(errors.RunDriven):
        world.do(rewind(world, driven, 1))
    assert world.run(driven).phase == Phase.PENDING


def test_a_rewound_run_goes_to_a_waiting_worker_without_old_news() -> None:
    """Granted in the batch of the rewind: ends of steps that are gone would answer the code's new calls."""
    world, key, _ = recorded("a")
    code = replayed_holding(world, key)
    code.run("t", NewTimer(5), waiting=True, resident=True)
    order = rewind(world, key, 2)
    world.batch(order)
    grant = world.grant(key)
    assert grant is not None
    assert world.last is not None
    assert not world.last.subjects.runs[key].news.ended


def replayed_holding(world: World, key: int) -> Code:
    """The code that holds the run already, after its calls."""
    code = Code(world, key, granted=True)
    for step in steps_of(world, key):
        code.passed(code.call(step.name, local(), step.scope))
    return code


def test_signals_that_were_carried_come_back_in_their_place() -> None:
    """Their ordinals go along the chain, and with them where they stand among those that came later."""
    world = World()
    old = world.start(workflow_id="w")
    for _ in range(3):
        world.do(SignalRun(world.ref(old), "go", NULL, None))
    code = Code(world, old)
    code.run("w", NewWait("go"))
    code.end(End(Phase.COMPLETED, successor=Successor(NULL)))
    key = old + 1
    world.do(SignalRun(world.ref(key), "go", NULL))
    code = Code(world, key)
    for _ in range(3):
        code.run("w", NewWait("go"))
    first = [world.ended(key, ordinal).input_event for ordinal in (1, 2, 3)]
    assert do(world, rewind(world, key, 2)) == [2, 3]
    assert [place[1] for place, signal in sorted(world.store.signals.items()) if not signal.consumed] == [3, 4]
    code = replayed(world, key)
    for _ in range(2):
        code.run("w", NewWait("go"))
    assert [world.ended(key, ordinal).input_event for ordinal in (4, 5)] == first[1:]
    world.check()
