"""Which build gets a run: the one that recorded something of it, one compatible with that, or one named by hand."""

from __future__ import annotations

from uuid import uuid4

import pytest
from tests.engine.code import COMPLETED, Code, activity, local
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.builds import PinRun
from stepwell_server.engine.grants import ReturnTask
from stepwell_server.engine.progress import ProgressRun
from stepwell_server.engine.reported import End, NewChild, NewTimer, Successor
from stepwell_server.engine.runs import PauseRun, ResumeRun
from stepwell_server.engine.timers import FireStep
from stepwell_server.model.events import EventType, unpack_attributes
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import Phase
from stepwell_server.model.tasks import TaskKind

OLD, NEW = ("v1",), ("v2", "v1")


def held(world: World, key: int, *builds: str) -> Code:
    """The run's code in a worker of the first of the builds, which takes the others too."""
    assert world.grant(key, builds=builds) is not None
    code = Code(world, key, granted=True)
    code.build_id = builds[0] if builds else ""
    return code


def given_up(world: World, key: int) -> None:
    run = world.run(key)
    assert run.session_id is not None
    world.do(ReturnTask(world.ref(key), 0, run.grants, run.session_id, counts=False, reason="left"))


def pins(world: World, key: int) -> list[tuple[str, str]]:
    """From what to what history says that the run was pinned."""
    facts = [
        unpack_attributes(each.attributes).facts for each in world.events(key) if each.type == EventType.RUN_PINNED
    ]
    return [(each["previous_build_id"], each["build_id"]) for each in facts if each is not None]


def recorded(world: World, *builds: str) -> int:
    """A run of which a worker of that build recorded a step, and which waits for its next worker."""
    key = world.start()
    held(world, key, *builds).run("a", local())
    given_up(world, key)
    return key


def test_a_run_goes_on_with_the_build_that_recorded_something_of_it() -> None:
    world = World()
    key = recorded(world, *OLD)
    assert world.run(key).build_id == "v1"
    assert world.store.tasks[key, 0].build_id == "v1"
    for others in ((), ("v2",)):
        assert world.grant(key, builds=others) is None
        assert world.is_queued(key)
    assert world.grant(key, builds=OLD) is not None
    assert pins(world, key) == []
    world.check()


def test_a_claim_finds_runs_of_its_builds_and_those_of_none() -> None:
    world = World()
    old, new, none = recorded(world, "v1"), recorded(world, "v2"), world.start()
    found = {
        builds: {grant.run.run_key for grant in world.claim(TaskKind.RUN, ("flow",), builds=builds)}
        for builds in [("v3",), OLD, NEW]
    }
    # Whom the first took, the next does not find: each run is claimed once.
    assert found == {("v3",): {none}, OLD: {old}, NEW: {new}}
    world.check()


def test_a_run_of_which_nothing_is_recorded_belongs_to_no_build() -> None:
    """Whoever took it has left no trace in it: it waits for no build that may never come back."""
    world = World()
    key = world.start()
    held(world, key, *OLD)
    given_up(world, key)
    assert world.run(key).build_id == ""
    code = held(world, key, "v2")
    code.send(waiting=True, resident=True)
    given_up(world, key)
    assert world.run(key).build_id == ""
    assert world.grant(key) is not None


def test_a_compatible_build_takes_a_run_over_with_its_first_record() -> None:
    world = World()
    key = recorded(world, *OLD)
    held(world, key, *NEW)
    given_up(world, key)
    assert world.run(key).build_id == "v1", "it has recorded nothing"
    code = held(world, key, *NEW)
    code.passed(code.call("a", local()))
    code.run("b", activity())
    assert world.run(key).build_id == "v2"
    assert pins(world, key) == [("v1", "v2")]
    given_up(world, key)
    assert world.grant(key, builds=OLD) is None
    assert world.grant(key, builds=NEW) is not None
    world.check()


@pytest.mark.parametrize("how", ["a step that is given up", "the end"])
def test_what_else_a_build_writes_counts_as_a_record(how: str) -> None:
    world = World()
    key = world.start()
    held(world, key, *OLD).run("sleep", NewTimer(60))
    given_up(world, key)
    code = held(world, key, *NEW)
    code.passed(code.call("sleep", NewTimer(60)))
    if how == "the end":
        code.end(COMPLETED)
        assert world.closed(key).build_id == "v2"
    else:
        code.send(cancels=(1,))
        assert world.run(key).build_id == "v2"


def test_a_worker_without_a_build_leaves_the_run_where_it_belongs() -> None:
    """One may be compatible with a build without being one."""
    world = World()
    key = recorded(world, *OLD)
    assert world.grant(key, builds=OLD) is not None
    code = Code(world, key, granted=True)
    code.passed(code.call("a", local()))
    code.run("b", local())
    assert world.run(key).build_id == "v1"


def test_activities_are_of_no_build() -> None:
    world = World()
    key = world.start()
    held(world, key, *OLD).run("a", activity())
    assert world.store.tasks[key, 1].build_id == ""
    assert world.grant(key, 1) is not None


def test_successors_and_children_belong_to_no_build() -> None:
    """Nothing is recorded of them: any code may begin them."""
    world = World()
    key = world.start()
    code = held(world, key, *OLD)
    code.run("child", NewChild("flow"))
    code.end(End(Phase.COMPLETED, successor=Successor(NULL)))
    assert {run.build_id for run in world.store.runs.values()} == {""}
    assert len(world.store.runs) == 2


# --- pinning by hand --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build_id", ["v2", ""])
def test_a_waiting_run_waits_for_the_build_it_is_pinned_to(build_id: str) -> None:
    world = World()
    key = recorded(world, *OLD)
    answer = world.do(PinRun(world.ref(key), build_id))
    assert (answer.accepted, answer.previous_build_id) == (True, "v1")
    assert world.store.tasks[key, 0].build_id == build_id
    assert (world.grant(key, builds=OLD) is None) is bool(build_id)
    assert pins(world, key) == [("v1", build_id)]
    assert world.do(PinRun(world.ref(key), build_id)).accepted is False
    assert pins(world, key) == [("v1", build_id)]
    world.check()


def test_a_held_run_is_taken_from_its_holder() -> None:
    """Else the holder's next report would pin it back."""
    world = World()
    key = world.start()
    code = held(world, key, *OLD)
    code.run("a", local())
    assert world.do(PinRun(world.ref(key), "v2")).accepted
    assert world.last is not None
    assert world.last.subjects.runs[key].news.revokes == [(world.session, 0, code.token, "RUN_PINNED")]
    with pytest.raises(errors.LeaseLost):
        code.run("b", local())
    assert world.is_queued(key)
    assert world.grant(key, builds=("v2",)) is not None
    world.check()


def test_a_run_that_waits_for_a_timer_goes_to_its_new_build_when_it_fires() -> None:
    world = World()
    key = world.start()
    held(world, key, *OLD).run("sleep", NewTimer(60), waiting=True)
    assert world.do(PinRun(world.ref(key), "v2")).accepted
    assert not world.is_queued(key)
    world.advance(60)
    world.do(FireStep(world.ref(key), 1))
    assert world.store.tasks[key, 0].build_id == "v2"
    world.check()


def test_a_paused_run_stays_paused_and_goes_on_with_its_new_build() -> None:
    world = World()
    key = recorded(world, *OLD)
    world.do(PauseRun(world.ref(key), "look"))
    assert world.do(PinRun(world.ref(key), "v2")).accepted
    assert not world.is_queued(key)
    world.do(ResumeRun(world.ref(key), accept_order=False))
    assert world.store.tasks[key, 0].build_id == "v2"
    world.check()


def test_a_driven_or_ended_run_is_not_pinned() -> None:
    world = World()
    driven, ended = world.start(driven=True), world.start()
    with pytest.raises(errors.RunDriven):
        world.do(PinRun(world.ref(driven), "v1"))
    held(world, ended, *OLD).end()
    with pytest.raises(errors.RunTerminal):
        world.do(PinRun(world.ref(ended), "v2"))


def test_a_claim_in_the_batch_that_pins_the_run_elsewhere_gets_nothing_and_loses_nothing() -> None:
    """The claim has found the task as it stood before; the new one must outlive it."""
    world = World()
    key = recorded(world, *OLD)
    pinned, granted = world.batch(PinRun(world.ref(key), "v2"), world.claim_of(TaskKind.RUN, ("flow",), builds=OLD))
    assert pinned.accepted
    assert granted == []
    assert world.is_queued(key)
    assert world.store.tasks[key, 0].build_id == "v2"
    world.check()


def test_a_repeat_by_another_build_pins_nothing() -> None:
    """What was recorded before is found again, and belongs to whom it did."""
    world = World()
    key = world.start()
    code = held(world, key, *OLD)
    message = code.message(code.call("a", local()))
    world.do(message)
    again = ProgressRun(
        message.ref,
        message.session_id,
        message.token,
        message.scopes,
        message.steps,
        [],
        waiting=False,
        end=None,
        resident=True,
        build_id="v9",
    )
    assert world.do(again).duplicate
    assert world.run(key).build_id == "v1"


def test_a_stranger_s_report_pins_nothing() -> None:
    world = World()
    key = world.start()
    code = held(world, key, *OLD)
    code.session = uuid4()
    code.build_id = "v9"
    with pytest.raises(errors.LeaseLost):
        code.run("a", local())
    assert world.run(key).build_id == ""
