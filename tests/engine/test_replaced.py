"""TERMINATE_EXISTING: a start that takes its workflow id from an open run, which ends in the same batch."""

from __future__ import annotations

from uuid import uuid4

import pytest
from tests.engine.code import Code, activity
from tests.engine.world import MAIN, World

from stepwell_server import errors, refusals
from stepwell_server.engine.committer.opening import HELD
from stepwell_server.engine.reported import NewChild
from stepwell_server.engine.runs import TerminateRun
from stepwell_server.engine.signal_with_start import SignalWithStartRun
from stepwell_server.engine.signals import Signalled, SignalRun
from stepwell_server.engine.starts import Conflict, NewRun, Reuse, Started, StartRun
from stepwell_server.model.events import EventType, unpack_attributes
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import Phase, RunRef
from stepwell_server.model.steps import StepState

REPLACE = Conflict.TERMINATE_EXISTING


def replacing(**fields: object) -> StartRun:
    return StartRun(NewRun(MAIN, "main", "flow", "q", workflow_id="w", **fields), conflict=REPLACE)  # type: ignore[arg-type]


def reason_of(world: World, key: int) -> str:
    return (unpack_attributes(world.events(key)[-1].attributes).facts or {})["reason"]


def test_the_old_run_ends_with_all_that_is_open_of_it() -> None:
    """Its holder and its activity's worker are told, its child gets its order, its parent hears of the end."""
    world = World()
    parent = world.start()
    Code(world, parent).run("c", NewChild("flow", workflow_id="w"), waiting=True, resident=True)
    old = parent + 1
    code = Code(world, old)
    code.send(code.call("a", activity()), code.call("c", NewChild("flow")))
    assert world.grant(old, 1) is not None
    started = world.do(replacing())
    assert world.last is not None
    news = world.last.subjects.runs[old].news
    assert [(ordinal, token, reason) for _, ordinal, token, reason in news.revokes] == [(0, 1, "RUN_ENDED")]
    assert [(ordinal, token) for _, ordinal, token, _ in news.cancels] == [(1, 1)]
    assert world.closed(old).phase == Phase.TERMINATED
    assert world.happened(old)[-1] == EventType.RUN_TERMINATED
    assert reason_of(world, old) == f"replaced by run {started.run_id}"
    assert world.store.names["w", MAIN][0] == started.run_key
    assert world.is_queued(started.run_key)
    world.deliver()
    assert world.ended(parent, 1).state == StepState.FAILED
    assert world.closed(old + 1).phase == Phase.TERMINATED
    world.check()


def test_the_old_run_s_holder_records_nothing_more() -> None:
    """Neither after the replacement nor behind it in the same batch; what came before it in the batch is recorded."""
    world = World()
    old = world.start(workflow_id="w")
    code = Code(world, old)
    before = code.message(code.call("a", activity()))
    behind = code.message(code.call("b", activity()))
    answers = world.batch(before, replacing(), behind)
    assert not isinstance(answers[0], refusals.Refusal)
    assert isinstance(answers[2], errors.LeaseLost)
    assert world.ended(old, 1).state == StepState.CANCELLED
    with pytest.raises(errors.LeaseLost):
        world.do(code.message())
    world.check()


def test_each_of_a_batch_replaces_the_one_before() -> None:
    """One is left; each of the others names the next."""
    world = World()
    answers = world.batch(*(replacing() for _ in range(5)))
    keys = [answer.run_key for answer in answers]
    assert list(world.store.runs) == keys[-1:]
    for old, new in zip(keys, answers[1:], strict=False):
        assert reason_of(world, old) == f"replaced by run {new.run_id}"
        assert not world.is_queued(old)
    world.check()


def test_a_start_waits_for_a_run_that_is_locked_elsewhere() -> None:
    """It starts nothing meanwhile, and stands aside with the commands of the run that it replaces."""
    world = World()
    old = world.start(workflow_id="w")
    world.store.locked.add(old)
    assert world.batch(replacing()) == [HELD]
    assert world.write is None
    world.store.locked.clear()
    assert world.do(replacing()).started
    assert world.closed(old).phase == Phase.TERMINATED


def test_a_progress_waits_for_the_run_that_its_child_replaces() -> None:
    """All of it, and what follows for its own run; what went before stands."""
    world = World()
    old, key = world.start(workflow_id="w"), world.start()
    code = Code(world, key)
    world.store.locked.add(old)
    first = code.message(code.call("a", activity()))
    second = code.message(code.call("c", NewChild("flow", workflow_id="w", conflict=REPLACE)))
    signal = SignalRun(world.ref(key), "s", NULL)
    answers = world.batch(first, second, signal)
    assert answers[1:] == [HELD, HELD]
    assert world.run(key).last_step == 1
    world.store.locked.clear()
    answers = world.batch(second, signal)
    assert isinstance(answers[1], Signalled)
    assert world.closed(old).phase == Phase.TERMINATED
    child = world.store.names["w", MAIN][0]
    assert world.step(key, 2).child_key == child
    assert reason_of(world, old) == f"replaced by run {world.run(child).run_id}"
    world.check()


def test_children_of_one_progress_replace_each_other() -> None:
    """The first of the same name fails its step once its end is told."""
    world = World()
    key = world.start()
    code = Code(world, key)
    body = NewChild("flow", workflow_id="w", conflict=REPLACE)
    code.send(code.call("c", body), code.call("c", body), waiting=True, resident=True)
    world.deliver()
    assert (world.ended(key, 1).state, world.step(key, 2).state) == (StepState.FAILED, StepState.WAITING)
    world.check()


def test_a_run_is_not_replaced_by_its_own_child() -> None:
    """The child's step fails as it would with FAIL."""
    world = World()
    key = world.start(workflow_id="w")
    code = Code(world, key)
    (ended,) = code.send(code.call("c", NewChild("flow", workflow_id="w", conflict=REPLACE))).ended
    assert ended.failure is not None
    assert ended.failure.type == "WORKFLOW_ID_IN_USE"
    assert world.run(key).session_id is not None
    world.check()


def test_a_refused_progress_replaces_nobody() -> None:
    """What its child would have replaced goes on as if nothing had been."""
    world = World()
    old, key = world.start(workflow_id="w"), world.start()
    code = Code(world, key)
    world.limits = world.limits._replace(open_steps=1)
    child = code.call("c", NewChild("flow", workflow_id="w", conflict=REPLACE))
    lost = code.message(child, code.call("a", activity()))
    assert isinstance(world.batch(lost)[0], errors.LimitExceeded)
    assert world.is_queued(old)
    assert world.write is None
    world.check()


def test_a_repeat_replaces_nobody() -> None:
    """It finds the run that the first made, whether another has replaced that meanwhile or not."""
    world = World()
    world.start(workflow_id="w")
    order = StartRun(NewRun(MAIN, "main", "flow", "q", run_id=uuid4(), workflow_id="w"), conflict=REPLACE)
    order = StartRun(order.new, Reuse.ALLOW, REPLACE, "r", b"1")
    first = world.do(order)
    assert world.do(order) == Started(first.run_id, first.run_key, started=False)
    assert list(world.store.runs) == [first.run_key]
    last = world.do(replacing())
    assert not world.do(order).started
    assert list(world.store.runs) == [last.run_key]


def test_signal_with_start_signals_the_new_run() -> None:
    world = World()
    old = world.start(workflow_id="w")
    answer = world.do(SignalWithStartRun(replacing(), "s", NULL))
    assert answer.started
    assert world.closed(old).phase == Phase.TERMINATED
    (signal,) = world.store.signals.values()
    assert signal.run_key == world.store.names["w", MAIN][0] != old
    world.check()


@pytest.mark.parametrize("ender", ["replaced", "terminated"])
def test_who_names_the_old_run_by_its_workflow_id_means_the_new_one(ender: str) -> None:
    """Also behind the replacement in the same batch."""
    world = World()
    old = world.start(workflow_id="w")
    signal = SignalRun(RunRef(MAIN, "main", workflow_id="w"), "s", NULL)
    orders = [replacing()] if ender == "replaced" else [TerminateRun(world.ref(old), ""), replacing()]
    answer = world.batch(*orders, signal)[-1]
    assert answer.run_id == world.run(world.store.names["w", MAIN][0]).run_id
