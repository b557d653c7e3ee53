"""Continue-as-new: the next run of a chain takes over names, parent and orders, and the old one passes letters on."""

from __future__ import annotations

import pytest
from tests.engine.code import Code, json
from tests.engine.world import World

from stepwell_server.engine.reported import End, NewChild, Successor
from stepwell_server.engine.runs import LookAtRun
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import Phase, RunDetails, unpack_details
from stepwell_server.model.steps import StepState

ON = End(Phase.COMPLETED, successor=Successor(json("2")))


def goes_on(world: World, key: int) -> int:
    """Lets the run continue as new; answers the next run's key."""
    Code(world, key).end(ON)
    return max(world.store.runs)


def test_the_next_run_takes_over() -> None:
    """It bears the workflow id, knows where it came from, and has its predecessor's parent and policies."""
    world = World()
    policies = RunDetails(maximum_run_seconds=100.0, maximum_suspend_seconds=10.0, parent_run_id="p", source_run_id="s")
    key = world.start(workflow_id="w", timeout_seconds=50, details=policies, parent_key=77, parent_ordinal=3)
    world.advance(5)
    after = goes_on(world, key)
    run, old = world.run(after), world.closed(key)
    assert old.phase == Phase.COMPLETED
    assert unpack_details(old.details).continued_run_id == str(run.run_id)
    assert (run.workflow_id, run.type, run.task_queue) == ("w", "flow", "q")
    assert (run.parent_key, run.parent_ordinal) == (77, 3)
    assert unpack_details(run.details) == RunDetails(
        maximum_run_seconds=100.0,
        maximum_suspend_seconds=10.0,
        parent_run_id="p",
        source_run_id=str(old.run_id),
        first_key=key,
    )
    assert run.deadline is not None
    assert (run.deadline - run.create_time).total_seconds() == 50
    assert world.is_queued(after)
    assert world.happened(key)[-1] == EventType.RUN_CONTINUED
    assert not world.store.mail
    world.check()
    world.advance(51)
    assert world.do(LookAtRun(world.ref(after))) is True
    assert world.closed(after).phase == Phase.TIMED_OUT


def test_the_parent_hears_of_the_last_run_of_the_chain() -> None:
    """The child's step ends with the run that does not continue, with what that came to."""
    world = World()
    parent = world.start()
    code = Code(world, parent)
    code.run("c", NewChild("flow"), waiting=True, resident=True)
    child = goes_on(world, parent + 1)
    world.deliver()
    assert world.step(parent, 1).state == StepState.WAITING
    Code(world, child).end(End(Phase.COMPLETED, json("3")))
    world.deliver()
    assert world.ended(parent, 1).state == StepState.COMPLETED


def test_the_word_of_a_child_whose_step_has_ended_changes_nothing() -> None:
    """Nobody waited for it any more."""
    world = World()
    parent = world.start()
    code = Code(world, parent)
    code.send(code.call("c", NewChild("flow", close_policy=3)))
    code.send(cancels=(1,), waiting=True, resident=True)
    Code(world, parent + 1).end(End(Phase.COMPLETED, json("3")))
    events = world.happened(parent)
    assert world.deliver() == [True]
    assert world.ended(parent, 1).state == StepState.CANCELLED
    assert world.happened(parent) == events


@pytest.mark.parametrize(
    ("policy", "phase", "reason"), [(1, Phase.TERMINATED, None), (2, None, "parent ended"), (3, None, None)]
)
def test_a_parents_end_reaches_the_last_run_of_the_chain(policy: int, phase: Phase | None, reason: str | None) -> None:
    """The parent knows its child's first run; what it orders at its end is passed along the chain."""
    world = World()
    parent = world.start()
    code = Code(world, parent)
    code.run("c", NewChild("flow", close_policy=policy))
    last = goes_on(world, goes_on(world, parent + 1))
    code.end(End(Phase.FAILED, NULL))
    world.deliver()
    assert (world.closed(last).phase if last in world.store.closed_runs else None) == phase
    assert phase is not None or world.run(last).cancel_reason == reason
    world.check()
