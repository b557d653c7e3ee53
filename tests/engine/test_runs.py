"""Steering runs: cancel, terminate, pause, resume, and what time does to them."""

from __future__ import annotations

import pytest
from tests.engine.code import Code, activity, complete, local
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.grants import ReturnTask
from stepwell_server.engine.reported import End, NewChild, NewTimer, NewWait
from stepwell_server.engine.runs import CancelRun, LookAtRun, PauseRun, ResumeRun, TerminateRun
from stepwell_server.engine.signals import SignalRun
from stepwell_server.model.events import EventType, unpack_attributes
from stepwell_server.model.mail import Subject, unpack_letter
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import ORDER_CHANGED, Phase, RunDetails
from stepwell_server.model.steps import StepState
from stepwell_server.model.tasks import TaskKind


def test_a_run_that_nobody_began_cancels_at_once() -> None:
    """Before its first grant there is no code to clean up; the parent hears of the end."""
    world = World()
    key = world.start(parent_key=9, parent_ordinal=2)
    assert world.do(CancelRun(world.ref(key), "no need")).phase == Phase.CANCELLED
    assert not world.store.tasks
    (mail,) = world.store.mail.values()
    assert (mail.run_key, unpack_letter(mail.body).phase) == (9, Phase.CANCELLED)
    assert world.happened(key) == [
        EventType.RUN_STARTED,
        EventType.RUN_CANCEL_REQUESTED,
        EventType.RUN_CANCELLED,
    ]
    world.check()


@pytest.mark.parametrize("resident", [True, False])
def test_a_run_that_was_begun_hears_of_a_cancel(*, resident: bool) -> None:
    """Its code cleans up: the holder is told, or a worker gets the run; a second request changes nothing."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.run("w", NewWait("never"), waiting=True, resident=resident)
    assert world.do(CancelRun(world.ref(key), "stop")).accepted
    assert not world.do(CancelRun(world.ref(key), "again")).accepted
    assert world.run(key).cancel_reason == "stop"
    assert world.is_queued(key) is not resident
    if not resident:
        code = Code(world, key)
        code.counts[""], code.hashes[""] = world.run(key).order_count, world.run(key).order_hash
    code.end(End(Phase.CANCELLED))
    assert world.closed(key).phase == Phase.CANCELLED
    assert world.ended(key, 1).state == StepState.CANCELLED
    assert not world.do(CancelRun(world.ref(key), "late")).accepted
    world.check()


def test_terminate_cancels_what_is_open_and_orders_children_by_their_policies() -> None:
    """Tasks are dropped, holders told, children terminated, asked to cancel, or left alone."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(
        *(code.call("c", NewChild("flow", close_policy=policy)) for policy in (1, 2, 3)),
        code.call("a", activity()),
        code.call("b", activity(type="other")),
        code.call("t", NewTimer(9)),
        code.call("w", NewWait("go")),
        waiting=True,
        resident=True,
    )
    (held,) = world.claim(TaskKind.ACTIVITY, ("act",))
    assert world.do(TerminateRun(world.ref(key), "enough")).accepted
    assert {world.ended(key, ordinal).state for ordinal in range(1, 8)} == {StepState.CANCELLED}
    assert [place for place in world.store.tasks if place[0] == key] == []
    assert world.last is not None
    news = world.last.subjects.runs[key].news
    assert held.step is not None
    assert [(session, ordinal) for session, ordinal, _, _ in news.cancels] == [(world.session, held.step.ordinal)]
    assert [(session, ordinal, token) for session, ordinal, token, _ in news.revokes] == [(world.session, 0, 1)]
    orders = {mail.run_key: unpack_letter(mail.body).subject for mail in world.store.mail.values()}
    assert orders == {key + 1: Subject.TERMINATE, key + 2: Subject.CANCEL}
    world.deliver()
    assert world.closed(key + 1).phase == Phase.TERMINATED
    assert world.closed(key + 2).phase == Phase.CANCELLED
    assert world.run(key + 3).phase == Phase.PENDING
    assert not world.do(TerminateRun(world.ref(key), "again")).accepted
    with pytest.raises(errors.LeaseLost):
        world.do(complete(world, held))
    world.check()


@pytest.mark.parametrize(("counts", "said"), [(True, EventType.RUN_INTERRUPTED), (False, EventType.RUN_RETURNED)])
def test_a_run_that_comes_back_undone_says_so(counts: bool, said: EventType) -> None:
    """History tells who had it and why it came back, whether or not its worker had begun."""
    world = World()
    key = world.start()
    code = Code(world, key)
    assert world.do(ReturnTask(world.ref(key), 0, code.token, world.session, counts=counts, reason="gone"))
    assert world.happened(key) == [EventType.RUN_STARTED, said]
    facts = unpack_attributes(world.store.events[key][-1].attributes).facts
    assert facts == {"worker": "worker", "reason": "gone"}
    assert world.is_queued(key)
    world.check()


def test_a_paused_run_is_nobodys_and_goes_on_where_it_was() -> None:
    """The holder loses it, its activities finish and are recorded, and resuming queues it."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.run("a", activity(), waiting=True, resident=True)
    (held,) = world.claim(TaskKind.ACTIVITY, ("act",))
    assert world.do(PauseRun(world.ref(key), "look")).accepted
    assert not world.do(PauseRun(world.ref(key), "again")).accepted
    with pytest.raises(errors.LeaseLost):
        code.run("b", local())
    world.do(complete(world, held))
    assert not world.is_queued(key)
    assert world.grant(key) is None
    assert world.do(ResumeRun(world.ref(key), accept_order=False)).accepted
    assert not world.do(ResumeRun(world.ref(key), accept_order=False)).accepted
    assert world.is_queued(key)
    assert world.grant(key) is not None
    world.check()


def test_pausing_a_queued_run_takes_its_task_away() -> None:
    """What is paused is not to be had."""
    world = World()
    key = world.start()
    world.do(PauseRun(world.ref(key), ""))
    assert not world.store.tasks
    world.do(SignalRun(world.ref(key), "s", NULL))
    assert not world.store.tasks
    world.check()


def test_a_run_whose_order_changed_is_not_simply_resumed() -> None:
    """It goes on when somebody says that the new order is right."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.run("a", local())
    code.hashes[""] = b"otherwise"[:8]
    with pytest.raises(errors.StepOrderChanged):
        code.run("b", local())
    assert world.run(key).pause_reason == ORDER_CHANGED
    with pytest.raises(errors.RunPaused):
        world.do(ResumeRun(world.ref(key), accept_order=False))
    assert world.do(ResumeRun(world.ref(key), accept_order=True)).accepted


def test_resuming_does_not_begin_a_delayed_run_early() -> None:
    """A run whose start is delayed and that was paused meanwhile still begins at its time."""
    world = World()
    key = world.start(delay_seconds=60, timeout_seconds=600)
    world.do(PauseRun(world.ref(key), ""))
    world.advance(10)
    world.do(ResumeRun(world.ref(key), accept_order=False))
    assert not world.is_queued(key)
    world.advance(51)
    assert world.do(LookAtRun(world.ref(key))) is True
    assert world.is_queued(key)


def test_a_delayed_run_that_was_paused_over_its_time_begins_when_resumed() -> None:
    """Its time passed while it was paused: resuming queues it."""
    world = World()
    key = world.start(delay_seconds=60)
    world.do(PauseRun(world.ref(key), ""))
    world.advance(61)
    world.do(LookAtRun(world.ref(key)))
    assert not world.is_queued(key)
    world.do(ResumeRun(world.ref(key), accept_order=False))
    assert world.is_queued(key)


def test_a_deadline_before_the_delay_is_kept() -> None:
    """A run that would begin after its deadline times out at the deadline, not at its start."""
    world = World()
    key = world.start(delay_seconds=600, timeout_seconds=60)
    wake = world.run(key).wake_time
    assert wake is not None
    assert (wake - world.now).total_seconds() == 60
    world.advance(60)
    world.do(LookAtRun(world.ref(key)))
    assert world.closed(key).phase == Phase.TIMED_OUT


@pytest.mark.parametrize(
    ("fields", "phase", "reason"),
    [
        ({"timeout_seconds": 60}, Phase.TIMED_OUT, None),
        ({"details": RunDetails(maximum_run_seconds=60.0)}, Phase.CANCELLED, "maxRunDuration"),
        ({"details": RunDetails(maximum_suspend_seconds=60.0)}, Phase.CANCELLED, "maxSuspendDuration"),
    ],
)
def test_time_ends_a_run(fields: dict[str, object], phase: Phase, reason: str | None) -> None:
    """Its deadline, or the patience of a policy; a moment before nothing happens."""
    world = World()
    key = world.start(**fields)
    code = Code(world, key)
    code.run("w", NewWait("go"), waiting=True, resident=True)
    world.advance(59)
    assert world.do(LookAtRun(world.ref(key))) is False
    world.advance(1)
    assert world.do(LookAtRun(world.ref(key))) is True
    assert (world.closed(key).phase, world.closed(key).cancel_reason) == (phase, reason)
    assert world.do(LookAtRun(world.ref(key))) is False
    world.check()
