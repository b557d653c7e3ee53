"""Repairing what is not over yet: open steps keep going under another name, or are given up; signals and updates."""

from __future__ import annotations

import pytest
from tests.engine.code import COMPLETED, Code, activity, complete, local
from tests.engine.mended import names_of, replayed, steps_of
from tests.engine.repaired import do, rename, repair, skip
from tests.engine.test_topics import Topics
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.repairing import RepairRun
from stepwell_server.engine.reported import NewChild, NewTimer, NewTopicWait, NewUserTask, NewWait
from stepwell_server.engine.runs import PauseRun, ResumeRun
from stepwell_server.engine.signals import SignalRun
from stepwell_server.engine.timers import FireStep
from stepwell_server.engine.user_tasks import ClaimUserTask, CompleteUserTask
from stepwell_server.model.events import EventType
from stepwell_server.model.mail import Subject, unpack_letter
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import Phase
from stepwell_server.model.steps import StepState, unpack_step_details
from stepwell_server.model.tasks import TaskKind
from stepwell_server.model.user_tasks import TaskStatus


def opened() -> tuple[World, int]:
    """A paused run with an open step of each kind, one activity of them held and one queued."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(
        code.call("a", local()),
        code.call("held", activity()),
        code.call("queued", activity(type="other")),
        *(code.call("c", NewChild("flow", close_policy=policy)) for policy in (1, 2, 3)),
        code.call("t", NewTimer(9)),
        code.call("w", NewWait("go")),
        waiting=True,
        resident=True,
    )
    return world, key


def pause(world: World, key: int) -> None:
    world.do(PauseRun(world.ref(key), "look"))


def test_a_task_for_a_person_goes_on_under_its_new_name() -> None:
    """Whoever has it keeps it, and it is found by the new name."""
    world = World()
    key = world.start()
    Code(world, key).run("ask", NewUserTask(), waiting=True, resident=True)
    task_id = world.store.user_tasks.rows[key, 1].task_id
    world.do(ClaimUserTask(world.ref(key), 1, task_id, "ann"))
    pause(world, key)
    do(world, key, rename(1, "approve"))
    world.check()
    task = world.store.user_tasks.rows[key, 1]
    assert (task.step_name, task.claimed_by, task.version) == ("approve", "ann", 3)
    world.do(ResumeRun(world.ref(key), accept_order=False))
    code = Code(world, key)
    code.passed(code.call("approve", NewUserTask()))
    world.do(CompleteUserTask(world.ref(key), 1, task_id, "ann", NULL))
    code.run("next", local())
    world.check()


def test_a_task_that_somebody_did_is_found_by_the_new_name_of_its_step() -> None:
    """Whether somebody looks at it at the same time or not."""
    world = World()
    key = world.start()
    Code(world, key).run("ask", NewUserTask(), waiting=True, resident=True)
    task_id = world.store.user_tasks.rows[key, 1].task_id
    claim = ClaimUserTask(world.ref(key), 1, task_id, "ann")
    world.do(claim)
    world.do(CompleteUserTask(world.ref(key), 1, task_id, "ann", NULL))
    pause(world, key)
    do(world, key, rename(1, "approve"))
    world.check()
    task = world.store.user_tasks.rows[key, 1]
    assert (task.step_name, task.status, task.version) == ("approve", TaskStatus.COMPLETED, 4)
    refused, repaired = world.batch(claim, RepairRun(world.ref(key), (rename(1, "decide"),), ""))
    assert isinstance(refused, errors.UserTaskStateConflict)
    assert repaired.renamed_count == 1
    world.check()
    assert world.store.user_tasks.rows[key, 1].step_name == "decide"


def test_what_is_open_goes_on_under_its_new_name() -> None:
    """Whoever has it need not know: the activity is done, the child ends, the timer fires, the signal comes."""
    world, key = opened()
    (held,) = world.claim(TaskKind.ACTIVITY, ("act",))
    pause(world, key)
    names = {2: "h", 3: "q", 4: "c1", 5: "a", 6: "c", 7: "u", 8: "v"}
    do(world, key, *(rename(ordinal, name) for ordinal, name in names.items() if ordinal != 6))
    assert [(step.name, step.occurrence) for step in steps_of(world, key)[3:6]] == [("c1", 0), ("a", 1), ("c", 0)]
    world.do(complete(world, held))
    (queued,) = world.claim(TaskKind.ACTIVITY, ("other",))
    assert queued.step is not None
    assert queued.step.name == "q"
    world.do(complete(world, queued))
    for child in (key + 1, key + 2, key + 3):
        Code(world, child).end()
    world.deliver()
    world.advance(10)
    world.do(FireStep(world.ref(key), 7))
    world.do(SignalRun(world.ref(key), "go", NULL))
    assert {step.ordinal: step.name for step in steps_of(world, key)} == {1: "a", **names}
    assert all(step.state == StepState.COMPLETED for step in steps_of(world, key))
    world.do(ResumeRun(world.ref(key), accept_order=False))
    replayed(world, key).send(end=COMPLETED)
    assert world.closed(key).phase == Phase.COMPLETED
    world.check()


def test_what_is_open_and_skipped_is_given_up() -> None:
    """Workers stop, tasks go, children end by their policies, and whoever reports finds nothing."""
    world, key = opened()
    (held,) = world.claim(TaskKind.ACTIVITY, ("act",))
    pause(world, key)
    answer = do(world, key, *(skip(ordinal) for ordinal in range(2, 9)))
    assert answer.skipped_count == 7
    assert world.last is not None
    news = world.last.subjects.runs[key].news
    assert [(session, ordinal) for session, ordinal, _, _ in news.cancels] == [(world.session, 2)]
    assert not news.ended
    assert not [place for place in world.store.tasks if place[0] == key]
    orders = {mail.run_key: unpack_letter(mail.body).subject for mail in world.store.mail.values()}
    assert orders == {key + 1: Subject.TERMINATE, key + 2: Subject.CANCEL}
    world.deliver()
    with pytest.raises(errors.LeaseLost):
        world.do(complete(world, held))
    assert names_of(world, key) == ["a"]
    assert world.run(key).open_steps == 0
    world.do(SignalRun(world.ref(key), "go", NULL))
    world.do(ResumeRun(world.ref(key), accept_order=False))
    code = replayed(world, key)
    assert [step.step.name for step in code.send(code.call("w", NewWait("go"))).ended] == ["w"]
    world.check()


def test_renamed_and_ended_in_one_batch() -> None:
    """The row of an open step goes, whatever it was called."""
    world, key = opened()
    (held,) = world.claim(TaskKind.ACTIVITY, ("act",))
    pause(world, key)
    world.batch(repair(world, key, rename(2, "h")), complete(world, held), repair(world, key, rename(2, "i")))
    assert world.ended(key, 2).name == "i"
    world.check()
    world.batch(repair(world, key, rename(2, "j")), repair(world, key, rename(2, "k"), rename(3, "l")))
    assert [step.name for step in steps_of(world, key)][:3] == ["a", "k", "l"]
    world.check()


@pytest.mark.parametrize("waits", [True, False])
def test_a_signal_that_a_skipped_step_took_is_kept_again(*, waits: bool) -> None:
    """Or it is given to the step that waits for one, which had been next."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.run("w", NewWait("go"), waiting=True, resident=True)
    world.do(SignalRun(world.ref(key), "go", NULL))
    signal = world.ended(key, 1).end_event
    if waits:
        code.run("w", NewWait("go"), waiting=True, resident=True)
    pause(world, key)
    do(world, key, skip(1))
    if not waits:
        assert [each.consumed for each in world.store.signals.values()] == [False]
        return
    taken = world.ended(key, 2)
    assert (taken.state, taken.occurrence, taken.input_event) == (StepState.COMPLETED, 0, signal)
    assert world.happened(key).count(EventType.WAIT_COMPLETED) == 1
    world.do(SignalRun(world.ref(key), "go", NULL))
    world.do(ResumeRun(world.ref(key), accept_order=False))
    code = replayed(world, key)
    assert len(code.send(code.call("w", NewWait("go"))).ended) == 1
    world.check()


def test_an_update_begins_again_in_the_wait_that_it_was_in() -> None:
    """Its place counts the waits of the run's own line: those that were over by then and are skipped count no more."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.run("a", local())
    code.run("mark", local(), waiting=False)
    code.send(code.call("b", local(), "1"), code.call("t", NewTimer(9)), waiting=True, resident=True)
    code.send(code.accept("u"), waiting=True, resident=True)
    assert unpack_step_details(world.ended(key, 5).details).place == 3
    world.advance(10)
    world.do(FireStep(world.ref(key), 4))
    pause(world, key)
    do(world, key, skip("t"), skip("b", scope="1"))
    assert unpack_step_details(world.ended(key, 5).details).place == 3
    do(world, key, skip("a"))
    assert unpack_step_details(world.ended(key, 5).details).place == 2
    assert (world.ended(key, 5).key, world.ended(key, 5).name) == ("u", "__update")
    world.check()


def test_an_event_that_a_skipped_step_had_goes_to_a_wait_for_its_topic() -> None:
    """And to no wait for a signal of that name; the wait that gets it is forgotten by the topic, whatever its name."""
    topics = Topics()
    world = topics.world
    key = world.start()
    code = Code(world, key)
    code.send(code.call("t", NewTopicWait("paid")), waiting=True, resident=True)
    topics.bring(key, topics.publish("1"))
    code.send(code.call("s", NewWait("paid")), code.call("u", NewTopicWait("paid")), waiting=True, resident=True)
    pause(world, key)
    do(world, key, skip("t"), rename("u", "v"))
    assert topics.results(key, 2, 3) == [None, b"1"]
    assert not topics.store.waits
    world.do(ResumeRun(world.ref(key), accept_order=False))
    replayed(world, key).send(end=COMPLETED)
    assert world.closed(key).phase == Phase.COMPLETED
