"""Random programs whose runs are rewound and retried at random: the record that is left always fits the code."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.engine.mended import retry, rewind, steps_of
from tests.engine.test_order_random import PROGRAMS, SETTINGS, Program, Worker, execute, lose
from tests.engine.world import World

from stepwell_server.engine.reported import End
from stepwell_server.model.events import EventType
from stepwell_server.model.runs import Phase, unpack_details


def completes(world: World, key: int, program: Program, data: st.DataObject) -> None:
    """The code of that program runs to its end, over whatever is recorded."""
    worker = Worker(world, key, program)
    execute(worker, data)
    worker.complete()
    closed = world.closed(key)
    calls = sum(len(calls) for calls in program.values())
    assert closed.phase == Phase.COMPLETED
    assert len(steps_of(world, key)) == calls
    assert closed.last_step - unpack_details(closed.details).removed_steps == calls
    world.check()


@SETTINGS
@given(program=PROGRAMS, data=st.data())
def test_a_rewound_run_completes(program: Program, data: st.DataObject) -> None:
    """From whichever step, while it is held, when it is lost, and after its end; and again."""
    world = World()
    key = world.start()
    worker = Worker(world, key, program)
    execute(worker, data, crash=True)
    worker.send()
    how = data.draw(st.sampled_from(["held", "lost", "failed"]))
    if how == "lost":
        lose(world, worker)
    elif how == "failed":
        worker.code.send(end=End(Phase.FAILED))
    for _ in range(data.draw(st.integers(1, 2))):
        recorded = [step.ordinal for step in steps_of(world, key)]
        if recorded:
            place = data.draw(st.sampled_from(recorded))
            world.do(rewind(world, key, place))
            assert all(step.ordinal < place for step in steps_of(world, key))
            world.check()
    if how == "held" and EventType.RUN_REWOUND not in world.happened(key):
        lose(world, worker)
    if key in world.store.runs:
        completes(world, key, program, data)


@SETTINGS
@given(program=PROGRAMS, data=st.data())
def test_a_retried_run_completes(program: Program, data: st.DataObject) -> None:
    """However far it had come, and whichever of its steps are to be done anew."""
    world = World()
    key = world.start()
    worker = Worker(world, key, program)
    execute(worker, data, crash=True)
    worker.send()
    worker.code.send(end=End(Phase.FAILED))
    done = {step.ordinal: step for step in steps_of(world, key)}
    cut = [ordinal for ordinal, step in done.items() if step.state == 7]
    chosen = data.draw(st.lists(st.sampled_from(cut), unique=True)) if cut else []
    world.do(retry(world, key, *chosen))
    left = {step.ordinal: step for step in steps_of(world, key)}
    assert left.items() <= done.items()
    assert not left.keys() & set(cut)
    world.check()
    completes(world, key, program, data)
