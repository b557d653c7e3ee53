"""Random programs that are changed under their runs: the right repair lets them complete, another one does not."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.engine.mended import steps_of
from tests.engine.repaired import ACCEPT, do, rename, skip
from tests.engine.test_order_random import NAMED, SETTINGS, Program, Worker, execute, lose, programs_of, run_through
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.mending import StepName
from stepwell_server.engine.repairs import Chosen, Rename, Repair, Skip
from stepwell_server.engine.reported import Checkpoint, NewTimer
from stepwell_server.engine.runs import PauseRun, ResumeRun
from stepwell_server.model.runs import ORDER_CHANGED, Phase
from stepwell_server.model.steps import ClosedStep, Kind, Step

AnyStep = Step | ClosedStep
PROGRAMS = programs_of(NAMED)
NEW_NAMES = st.sampled_from(["a", "b", "c", "z"])


def begun(program: Program, data: st.DataObject) -> tuple[World, int, list[AnyStep]]:
    """A run of the program that nobody holds, somewhere on its way."""
    world = World()
    key = world.start()
    worker = Worker(world, key, program)
    execute(worker, data, crash=True)
    worker.send()
    lose(world, worker)
    return world, key, steps_of(world, key)


def named(step: AnyStep, data: st.DataObject) -> Chosen:
    """The step, by its ordinal or by its name."""
    if data.draw(st.booleans()):
        return Chosen(StepName(step.ordinal))
    return Chosen(StepName(0, step.scope, step.name, step.occurrence))


def shape(program: Program) -> dict[str, list[tuple[str, type]]]:
    return {scope: [(name, type(body)) for name, body in calls] for scope, calls in program.items()}


def fits(steps: list[AnyStep], program: Program) -> bool:
    """Whether what is recorded of each branch is a beginning of the program's."""
    lines = shape(program)
    kinds: dict[type, Kind] = {NewTimer: Kind.TIMER, Checkpoint: Kind.LOCAL}
    return all(
        [(step.name, step.kind) for step in line] == [(name, kinds[body]) for name, body in lines[scope][: len(line)]]
        for scope in program
        for line in [[step for step in steps if step.scope == scope]]
    )


def repaired(program: Program, steps: list[AnyStep], data: st.DataObject) -> tuple[Program, list[Repair]]:
    """The program with some of its recorded calls renamed and others left out, and the repairs that go with that.

    A branch whose record is a beginning of the changed one all the same needs none.
    """
    other: Program = {scope: [] for scope in program}
    every: list[Repair] = []
    for scope, calls in program.items():
        line = [step for step in steps if step.scope == scope]
        repairs: list[Repair] = []
        for place, (name, body) in enumerate(calls):
            what = data.draw(st.sampled_from(["keep", "keep", "rename", "skip"])) if place < len(line) else "keep"
            if what == "skip":
                repairs.append(Skip(named(line[place], data)))
                continue
            new = data.draw(NEW_NAMES) if what == "rename" else name
            if new != name:
                repairs.append(Rename(named(line[place], data), new))
            other[scope].append((new, body))
        every += repairs if not fits(line, {scope: other[scope]}) else []
    return other, data.draw(st.permutations(every))


def make_pause(world: World, key: int, other: Program, data: st.DataObject) -> bool:
    """The changed code trips the check, or a person pauses the run first; answers whether the order did."""
    if fits(steps_of(world, key), other) or data.draw(st.booleans()):
        world.do(PauseRun(world.ref(key), "look"))
        return False
    worker = Worker(world, key, other)
    with pytest.raises(errors.StepOrderChanged):
        run_through(worker, data)
    return True


@SETTINGS
@given(program=PROGRAMS, data=st.data())
def test_the_right_repair_lets_a_changed_program_complete(program: Program, data: st.DataObject) -> None:
    """Nothing that stays is done again: it is the same step, with the same end, however often the worker is lost."""
    world, key, steps = begun(program, data)
    other, repairs = repaired(program, steps, data)
    assume(repairs and shape(other) != shape(program))
    by_order = make_pause(world, key, other, data)
    was = {step.ordinal: step for step in steps_of(world, key)}
    answer = do(world, key, *repairs)
    assert answer.paused is not by_order
    if not by_order:
        world.do(ResumeRun(world.ref(key), accept_order=False))
    left = {step.ordinal: step for step in steps_of(world, key)}
    assert left.keys() <= was.keys()
    assert len(was) - len(left) == answer.skipped_count
    for ordinal, step in left.items():
        assert getattr(step, "end_event", 0) == getattr(was[ordinal], "end_event", 0)
    worker = Worker(world, key, other)
    if not execute(worker, data, crash=True):
        lose(world, worker)
        worker = Worker(world, key, other)
        assert execute(worker, data)
    worker.complete()
    assert world.closed(key).phase == Phase.COMPLETED
    assert len(steps_of(world, key)) == sum(len(calls) for calls in other.values())
    assert left.keys() <= {step.ordinal for step in steps_of(world, key)}
    world.check()


@SETTINGS
@given(program=PROGRAMS, data=st.data())
def test_a_wrong_repair_pauses_again(program: Program, data: st.DataObject) -> None:
    """It is refused where that is known, or the code trips over the record once more; a right one still helps."""
    world, key, steps = begun(program, data)
    assume(steps)
    step = data.draw(st.sampled_from(steps))
    is_renamed = data.draw(st.booleans())
    world.do(PauseRun(world.ref(key), "look"))
    do(world, key, rename(step.ordinal, "z") if is_renamed else skip(step.ordinal))
    world.do(ResumeRun(world.ref(key), accept_order=False))
    worker = Worker(world, key, program)
    if fits(steps_of(world, key), program):
        run_through(worker, data)
        return
    with pytest.raises(errors.StepOrderChanged):
        run_through(worker, data)
    assert world.run(key).pause_reason == ORDER_CHANGED
    if is_renamed:
        do(world, key, rename(step.ordinal, step.name), *([ACCEPT] if data.draw(st.booleans()) else []))
        worker = Worker(world, key, program)
        run_through(worker, data)
        assert world.closed(key).phase == Phase.COMPLETED
