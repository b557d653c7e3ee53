"""A batch: commands folded in order, each caller's fault its own, letters applied once, places at workers in step."""

from __future__ import annotations

from uuid import UUID

import pytest
from tests.engine.code import Code, activity
from tests.engine.world import MAIN, World

from stepwell_server import errors, refusals
from stepwell_server.engine.committer.opening import HELD
from stepwell_server.engine.committer.protocols import Reservation
from stepwell_server.engine.letters import ReadLetter
from stepwell_server.engine.reported import End, NewChild, NewTimer, Successor
from stepwell_server.engine.runs import CancelRun, PauseRun, TerminateRun
from stepwell_server.engine.signals import Signalled, SignalRun
from stepwell_server.engine.starts import NewRun, StartRun
from stepwell_server.model.mail import unpack_letter
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import Phase, RunRef
from stepwell_server.model.steps import StepState
from stepwell_server.model.tasks import Task

ENDLESS = 1e12


class Places:
    """A worker that takes every task, and counts its places."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.taken = 0

    def reserve(self, task: Task) -> Reservation | None:
        self.taken += 1
        return Reservation(self.world.session, "worker", ())

    def release(self, task: Task, reservation: Reservation) -> None:
        self.taken -= 1

    def is_here(self, session_id: UUID) -> bool:
        return session_id == self.world.session


def test_a_fault_in_one_decision_is_its_callers_alone() -> None:
    """A command that breaks the decision is answered INTERNAL; the others of its batch never notice."""
    world = World()
    first, second = world.start(), world.start()
    code = Code(world, first)
    broken = code.message(code.call("t", NewTimer(ENDLESS)))
    before, answer, after = world.batch(
        SignalRun(world.ref(first), "s", NULL), broken, SignalRun(world.ref(second), "s", NULL)
    )
    assert isinstance(answer, refusals.Internal)
    assert isinstance(before, Signalled)
    assert isinstance(after, Signalled)
    assert world.run(first).last_step == 0
    world.check()


def letter_for(world: World) -> ReadLetter:
    (mail,) = world.store.mail.values()
    return ReadLetter(RunRef(None, "", mail.run_key), mail.mail_id, unpack_letter(mail.body))


def parent_with_ended_child(world: World) -> int:
    key = world.start()
    Code(world, key).run("c", NewChild("flow"), waiting=True, resident=True)
    world.do(TerminateRun(world.ref(key + 1), ""))
    return key


def test_a_letter_that_comes_twice_is_applied_once() -> None:
    """Its sender delivers it and so does the round of deliveries: in one batch, or one after the other."""
    world = World()
    key = parent_with_ended_child(world)
    letter = letter_for(world)
    other = world.start()
    answers = world.batch(letter, SignalRun(world.ref(other), "s", NULL), letter)
    assert (answers[0], answers[2]) == (True, False)
    assert world.batch(letter) == [False]
    assert world.write is None
    assert world.ended(key, 1).state == StepState.FAILED
    world.check()


def test_a_letter_to_a_run_that_has_ended_goes_all_the_same() -> None:
    """It is taken out of the post, and nothing else happens."""
    world = World()
    key = parent_with_ended_child(world)
    letter = letter_for(world)
    world.do(TerminateRun(world.ref(key), ""))
    assert world.do(letter) is False
    assert letter.mail_id not in world.store.mail


def test_commands_of_a_run_locked_elsewhere_are_held_and_the_others_go_on() -> None:
    """Nothing of that run is decided; what is of other runs is."""
    world = World()
    first, second = world.start(), world.start()
    world.store.locked.add(first)
    answers = world.batch(
        SignalRun(world.ref(first), "s", NULL),
        SignalRun(world.ref(second), "s", NULL),
        CancelRun(world.ref(first), ""),
    )
    assert answers[0] is HELD
    assert answers[2] is HELD
    assert isinstance(answers[1], Signalled)


def test_nothing_crosses_namespaces() -> None:
    """A run of another namespace is not found, whatever names it: key, id or workflow id."""
    world = World()
    key = world.start(workflow_id="w")
    run_id = world.run(key).run_id
    for ref in (RunRef(2, "b", key), RunRef(2, "b", run_id=run_id), RunRef(2, "b", workflow_id="w")):
        with pytest.raises(errors.RunNotFound):
            world.do(TerminateRun(ref, ""))
    assert world.do(StartRun(NewRun(2, "b", "flow", "q", run_id=run_id, workflow_id="w"))).started
    with pytest.raises(errors.RunAmbiguous):
        world.do(TerminateRun(RunRef(None, "-", run_id=run_id), ""))
    assert world.do(TerminateRun(RunRef(MAIN, "main", workflow_id="w"), "")).run_id == run_id
    assert world.run(2).namespace_id == 2


def test_a_name_is_looked_up_again_when_its_run_has_ended_meanwhile() -> None:
    """A signal by workflow id that finds the run just ended goes to the one that bears the name now."""
    world = World()
    key = world.start(workflow_id="w")
    code = Code(world, key)
    look = world.store.find_workflow_ids

    async def late(connection: object, wanted: object) -> object:
        found = await look(connection, wanted)  # type: ignore[arg-type] # passed on as it came
        if key in world.store.runs:
            world.store.find_workflow_ids = look  # type: ignore[method-assign]
            code.end(End(Phase.COMPLETED, successor=Successor(NULL)))
            world.store.find_workflow_ids = late  # type: ignore[method-assign, assignment]
        return found

    world.store.find_workflow_ids = late  # type: ignore[method-assign, assignment]
    signal = SignalRun(RunRef(MAIN, "main", workflow_id="w"), "s", NULL)
    (answer,) = world.batch(signal)
    assert answer is HELD
    assert world.do(signal).run_id == world.run(key + 1).run_id


def test_a_fresh_task_goes_straight_to_a_worker_with_a_place() -> None:
    """It is written as held, never as waiting, and the place stays taken."""
    world = World()
    world.capacity = places = Places(world)
    key = world.start()
    assert world.run(key).session_id == world.session
    assert not world.store.tasks
    assert places.taken == 1
    Code(world, key, granted=True).run("a", activity(), waiting=True, resident=True)
    assert world.step(key, 1).state == StepState.RUNNING
    assert places.taken == 2
    world.check()


def test_a_place_for_a_task_that_is_not_granted_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reservation either becomes a grant or is released."""
    world = World()
    world.capacity = places = Places(world)
    monkeypatch.setattr("stepwell_server.engine.grants.grant_run", lambda *_: None)
    world.start()
    assert places.taken == 0


def test_a_task_dropped_in_the_batch_that_made_it_is_offered_to_nobody() -> None:
    """What was paused or ended after it was queued takes no place."""
    world = World()
    world.capacity = places = Places(world)
    key = world.start(delay_seconds=1)
    world.do(PauseRun(world.ref(key), ""))
    assert places.taken == 0


def test_a_letter_that_comes_to_nothing_writes_no_run() -> None:
    """The step that it is about has ended already: the letter goes, and the run's row stays as it was."""
    world = World()
    key = world.start()
    code = Code(world, key)
    child = code.run("c", NewChild("flow", close_policy=3))
    code.send(cancels=(child,), waiting=True, resident=True)
    world.do(TerminateRun(world.ref(key + 1), ""))
    assert world.do(letter_for(world)) is True
    assert world.write is not None
    assert not world.write.changed_runs
