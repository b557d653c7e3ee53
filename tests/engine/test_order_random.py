"""Random programs of parallel branches: no interleaving trips the order check, every real change does."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.engine.code import COMPLETED, Code, local
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.grants import ReturnTask
from stepwell_server.engine.reported import Body, Checkpoint, End, NewStep, NewTimer, WonRace
from stepwell_server.model.payloads import NULL, Failure
from stepwell_server.model.races import LOST, WINNER
from stepwell_server.model.runs import ORDER_CHANGED, Phase
from stepwell_server.model.steps import ClosedStep, Kind, Step

Call = tuple[str, Body]
Program = dict[str, list[Call]]
BODIES: list[Body] = [local(), NewTimer(60), Checkpoint(NULL, Failure("no"))]
# Who won a race, and where a loser heard, are calls like others; their keys are not in the hash.
MARKS: list[Call] = [(WINNER, WonRace(2)), (LOST, local('"wait"'))]
NAMED = st.tuples(st.sampled_from("abc"), st.sampled_from(BODIES))


def programs_of(call: st.SearchStrategy[Call]) -> st.SearchStrategy[Program]:
    return st.dictionaries(st.sampled_from(["", "1", "2", "2/1"]), st.lists(call, min_size=1, max_size=4), min_size=1)


PROGRAMS = programs_of(st.one_of(NAMED, st.sampled_from(MARKS)))
SETTINGS = settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))


class Worker:
    """Executes a program, branch by branch in any interleaving, and sends what is new in messages of any size."""

    def __init__(self, world: World, key: int, program: Program) -> None:
        self.world = world
        self.key = key
        self.program = program
        self.code = Code(world, key)
        self.places = dict.fromkeys(program, 0)
        self.fresh: list[NewStep] = []

    def is_recorded(self, step: NewStep) -> bool:
        identity = (step.scope, step.name, step.occurrence, step.key)
        steps: list[Step | ClosedStep] = [*self.world.store.steps.values(), *self.world.store.closed_steps.values()]
        return any(each.identity == identity and each.run_key == self.key for each in steps)

    def advance(self, scope: str) -> None:
        """One call in a branch: answered from the record, or new."""
        name, body = self.program[scope][self.places[scope]]
        self.places[scope] += 1
        is_mark = (name, body) in MARKS
        key = f"{self.places[scope]}" if is_mark else ""
        step = self.code.call(name, body, scope, key, kind=Kind.MARKER if is_mark else None)
        if not self.is_recorded(step):
            self.fresh.append(step)
            return
        if any(each.scope == scope for each in self.fresh):
            # The record answers a call that follows a new one: the new one is told first.
            self.send()
        self.code.passed(step)

    def send(self, *, waiting: bool = False) -> None:
        steps, self.fresh = self.fresh, []
        self.code.send(*steps, waiting=waiting, resident=True, also=tuple(self.program))

    def left(self) -> list[str]:
        return [scope for scope, place in self.places.items() if place < len(self.program[scope])]

    def complete(self) -> None:
        """Every branch has returned, and then the run's code."""
        steps, self.fresh = self.fresh, []
        self.code.send(*steps, end=COMPLETED, also=tuple(self.program), closed=True)


def execute(worker: Worker, data: st.DataObject, *, crash: bool = False) -> bool:
    """Runs the program to its end; answers False if the worker was lost on the way."""
    while left := worker.left():
        worker.advance(data.draw(st.sampled_from(left)))
        what = data.draw(st.sampled_from(["go on", "go on", "send", "wait", "crash" if crash else "send"]))
        if what == "crash":
            return False
        if what in ("send", "wait"):
            worker.send(waiting=what == "wait")
    return True


def run_through(worker: Worker, data: st.DataObject) -> None:
    execute(worker, data)
    worker.complete()


def lose(world: World, worker: Worker) -> None:
    order = ReturnTask(world.ref(worker.key), 0, worker.code.token, world.session, counts=True, reason="lost")
    assert world.do(order) is True


@SETTINGS
@given(program=PROGRAMS, data=st.data())
def test_no_interleaving_of_branches_trips_the_check(program: Program, data: st.DataObject) -> None:
    """However often the worker is lost, and in whatever order the branches go the next time, the run completes."""
    world = World()
    key = world.start()
    for _ in range(3):
        worker = Worker(world, key, program)
        if execute(worker, data, crash=True):
            break
        lose(world, worker)
    else:
        worker = Worker(world, key, program)
        assert execute(worker, data)
    worker.complete()
    assert world.closed(key).last_step == sum(len(calls) for calls in program.values())
    world.check()


def changed(program: Program, how: str, data: st.DataObject) -> Program:
    """The program with one real change: something that a replay cannot be blind to."""
    after = {scope: list(calls) for scope, calls in program.items()}
    scope = data.draw(st.sampled_from(sorted(after)))
    if how == "remove branch":
        del after[scope]
        return after
    calls = after[scope]
    place = data.draw(st.integers(0, len(calls) - 1))
    if how == "rename":
        calls[place] = ("z", calls[place][1])
    elif how == "other kind":
        calls[place] = (calls[place][0], local() if calls[place][1] == NewTimer(60) else NewTimer(60))
    elif how == "insert":
        calls.insert(place, ("z", local()))
    elif how == "remove":
        del calls[place]
    elif how == "remove last":
        del calls[-1]
    else:
        calls.insert(data.draw(st.integers(0, len(calls) - 1)), calls.pop(place))
    return after


@SETTINGS
@pytest.mark.parametrize("how", ["rename", "other kind", "insert", "remove", "remove last", "remove branch", "move"])
@given(program=PROGRAMS, data=st.data())
def test_a_real_change_always_trips_the_check(how: str, program: Program, data: st.DataObject) -> None:
    """Code that differs from the record is paused, at the latest when it says that it is done; nothing is recorded."""
    world = World()
    key = world.start()
    worker = Worker(world, key, program)
    execute(worker, data)
    worker.send()
    lose(world, worker)
    other = changed(program, how, data)
    shapes = [{s: [(n, type(b)) for n, b in calls] for s, calls in each.items()} for each in (program, other)]
    steps = world.run(key).last_step
    worker = Worker(world, key, other)
    if shapes[0] == shapes[1]:
        run_through(worker, data)
        return
    with pytest.raises(errors.StepOrderChanged):
        run_through(worker, data)
    assert world.run(key).pause_reason == ORDER_CHANGED
    assert world.run(key).last_step == steps
    world.check()


def test_a_branch_that_is_gone_is_missed_however_late_it_is_told() -> None:
    """The calls of all branches together must be as many as are recorded, whatever the worker says of the branches."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(code.call("a", local()), code.call("b", local(), "1"), code.call("c", local(), "2"))
    message = code.message(end=COMPLETED, also=("1", "2"), closed=True)
    with pytest.raises(errors.InvalidField, match="calls"):
        world.do(replace(message, calls=None))
    assert world.run(key).pause_reason is None
    with pytest.raises(errors.StepOrderChanged, match="3 calls"):
        world.do(replace(message, scopes=message.scopes[:2], calls=2))
    assert world.run(key).pause_reason == ORDER_CHANGED


def test_code_without_branches_need_not_count_its_calls() -> None:
    """Its own line says it all."""
    world = World()
    key = world.start()
    code = Code(world, key)
    message = code.message(code.call("a", local()), end=COMPLETED)
    world.do(replace(message, calls=None))
    assert world.closed(key).phase == Phase.COMPLETED


def test_an_early_failure_is_no_change_of_order() -> None:
    """Code that fails before it has made all recorded calls ends the run: only a return must have made them all."""
    world = World()
    key = world.start()
    worker = Worker(world, key, {"": [("a", local()), ("b", local())]})
    worker.advance("")
    worker.advance("")
    worker.send()
    lose(world, worker)
    worker = Worker(world, key, worker.program)
    worker.advance("")
    worker.code.send(end=End(Phase.FAILED))
    assert world.closed(key).phase == Phase.FAILED
