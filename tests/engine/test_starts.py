"""Starting: ids, names and policies, repeats, and what a refused start leaves behind."""

from __future__ import annotations

from uuid import uuid4

import pytest
from tests.engine.code import Code
from tests.engine.world import MAIN, World

from stepwell_server import errors
from stepwell_server.engine.reported import End, NewChild
from stepwell_server.engine.runs import TerminateRun
from stepwell_server.engine.starts import Conflict, NewRun, Reuse, Started, StartRun
from stepwell_server.model.events import EventType
from stepwell_server.model.runs import Phase
from stepwell_server.model.steps import StepState


def named(world: World, latest: Phase | None) -> World:
    """A world in which the workflow id `w` is free, or borne by a run in that phase."""
    if latest is not None:
        key = world.start(workflow_id="w")
        if latest == Phase.TERMINATED:
            world.do(TerminateRun(world.ref(key), ""))
        elif latest != Phase.PENDING:
            Code(world, key).end(End(latest))
    return world


STARTS, FINDS = "starts", "finds"


@pytest.mark.parametrize(
    ("latest", "reuse", "conflict", "expected"),
    [
        *((None, reuse, conflict, STARTS) for reuse in Reuse for conflict in Conflict),
        *((Phase.PENDING, reuse, Conflict.FAIL, errors.WorkflowIdInUse) for reuse in Reuse),
        *((Phase.PENDING, reuse, Conflict.USE_EXISTING, FINDS) for reuse in Reuse),
        (Phase.COMPLETED, Reuse.ALLOW, Conflict.FAIL, STARTS),
        (Phase.COMPLETED, Reuse.ALLOW_IF_FAILED, Conflict.FAIL, errors.RunExists),
        (Phase.COMPLETED, Reuse.REJECT, Conflict.FAIL, errors.RunExists),
        *((phase, Reuse.ALLOW, Conflict.FAIL, STARTS) for phase in (Phase.FAILED, Phase.CANCELLED, Phase.TERMINATED)),
        *((phase, Reuse.ALLOW_IF_FAILED, Conflict.FAIL, STARTS) for phase in (Phase.FAILED, Phase.TERMINATED)),
        *((phase, Reuse.REJECT, Conflict.USE_EXISTING, errors.RunExists) for phase in (Phase.FAILED, Phase.COMPLETED)),
    ],
)
def test_a_name_that_is_borne(latest: Phase | None, reuse: Reuse, conflict: Conflict, expected: object) -> None:
    """The policies say whether a name may be used again, and what to do while a run of that name is open."""
    world = named(World(), latest)
    (answer,) = world.batch(StartRun(NewRun(MAIN, "main", "flow", "q", workflow_id="w"), reuse, conflict))
    if isinstance(answer, Started):
        assert (STARTS if answer.started else FINDS) == expected
        assert world.store.names["w", MAIN][0] == answer.run_key
    else:
        assert type(answer) is expected
        assert world.write is None
    world.check()


def test_a_repeat_finds_its_run() -> None:
    """By its id and the same content: open or ended; other content, or no word of the content, is refused."""
    world = World()
    new = NewRun(MAIN, "main", "flow", "q", run_id=uuid4(), workflow_id="w")
    order = StartRun(new, request_id="r", request_hash=b"1")
    first, again = world.batch(order, order)
    assert (first.started, again.started, again.run_key) == (True, False, first.run_key)
    world.do(TerminateRun(world.ref(first.run_key), ""))
    assert world.do(order) == Started(first.run_id, first.run_key, started=False)
    with pytest.raises(errors.RequestIdReused):
        world.do(StartRun(new, request_id="r", request_hash=b"2"))
    with pytest.raises(errors.RunExists):
        world.do(StartRun(new))


def test_a_name_freed_in_a_batch_is_free_in_it() -> None:
    """A run that ends in this very batch makes way for the next start of its name, and only for one."""
    world = World()
    key = world.start(workflow_id="w")
    order = StartRun(NewRun(MAIN, "main", "flow", "q", workflow_id="w"))
    before, _, after, late = world.batch(order, TerminateRun(world.ref(key), ""), order, order)
    assert isinstance(before, errors.WorkflowIdInUse)
    assert after.started
    assert isinstance(late, errors.WorkflowIdInUse)
    world.check()


def test_a_refused_progress_frees_the_names_of_its_children() -> None:
    """Children of a progress that is refused were never born: their names and keys are free in the same batch."""
    world = World()
    key = world.start()
    code = Code(world, key)
    lost = code.message(code.call("c", NewChild("flow", workflow_id="w")), cancels=(1,))
    world.limits = world.limits._replace(open_steps=0)
    refused, started = world.batch(lost, StartRun(NewRun(MAIN, "main", "flow", "q", workflow_id="w")))
    assert isinstance(refused, errors.LimitExceeded)
    assert started.started
    assert sorted(world.store.runs) == [key, started.run_key]
    assert started.run_key == key + 1
    world.check()


def test_a_child_whose_name_is_taken_fails_its_step() -> None:
    """The code hears of it at once, with the reason; the run goes on."""
    world = World()
    named = world.start(workflow_id="w")
    key = world.start()
    code = Code(world, key)
    answer = code.send(code.call("c", NewChild("flow", workflow_id="w")), waiting=True, resident=True)
    (ended,) = answer.ended
    assert ended.step.state == StepState.FAILED
    assert ended.failure is not None
    assert ended.failure.type == "WORKFLOW_ID_IN_USE"
    in_use = f"Workflow id w is in use by the open run {world.store.runs[named].run_id}: "
    assert ended.failure.message == f"{in_use}choose another, or another conflict policy."
    assert world.happened(key)[-1] == EventType.CHILD_FAILED
    world.check()
