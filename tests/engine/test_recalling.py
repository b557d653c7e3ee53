"""Requests with an id within batches: recognised, recorded with the change, and decided once."""

from __future__ import annotations

from tests.engine.world import MAIN, World

from stepwell_server import errors
from stepwell_server.engine.activity_claims import ReturnActivity
from stepwell_server.engine.driven_activities import CancelActivities
from stepwell_server.engine.driven_events import Appended, AppendEvent
from stepwell_server.engine.driven_runs import MarkRunCompleted
from stepwell_server.engine.runs import PauseRun, Steered
from stepwell_server.model.payloads import NULL
from stepwell_server.model.requests import Asked
from stepwell_server.model.runs import RunRef


def asked(request_id: str = "r", body_hash: bytes = b"1", kind: type = Appended) -> Asked:
    return Asked(request_id, MAIN, "AppendEvent", body_hash, kind)


def driven(world: World, **fields: str) -> int:
    return world.start(driven=True, managed=False, **fields)


def append(world: World, key: int) -> AppendEvent:
    return AppendEvent(world.ref(key), "Paid", NULL, 0, 0)


def test_a_repeat_may_stand_in_the_same_batch() -> None:
    """Behind what it repeats, as often as it likes; others are decided as ever."""
    world = World()
    key = driven(world)
    order = append(world, key)
    answers = world.ask((order, asked()), (order, None), (order, asked()), (order, asked("r2")), (order, asked()))
    assert [answer.number for answer in answers] == [2, 3, 2, 4, 2]
    assert sorted(row[0] for row in world.store.requests) == ["r", "r2"]
    assert [answer.number for answer in world.ask((order, asked()), (order, asked("r2")))] == [2, 4]
    world.check()


def test_another_request_of_that_id_is_refused() -> None:
    """In the same batch and later; it disturbs nobody else."""
    world = World()
    order = append(world, driven(world))
    first, other = world.ask((order, asked()), (order, asked(body_hash=b"2")))
    later, good = world.ask((order, asked(body_hash=b"2")), (order, asked()))
    assert (first.number, good.number) == (2, 2)
    assert isinstance(other, errors.RequestIdReused)
    assert isinstance(later, errors.RequestIdReused)


def test_what_is_recalled_looks_for_no_run() -> None:
    """Not for one that is locked, nor for one that has taken the name meanwhile, nor for one that is gone."""
    world = World()
    key = driven(world, workflow_id="w")
    named = AppendEvent(RunRef(MAIN, "main", workflow_id="w"), "Paid", NULL, 0, 0)
    (first,) = world.ask((named, asked()))
    world.store.locked.add(key)
    assert world.ask((named, asked())) == [first]
    world.store.locked.clear()
    world.do(MarkRunCompleted(world.ref(key), NULL, 0))
    second = driven(world, workflow_id="w")
    assert world.ask((named, asked())) == [first]
    assert world.run(second).last_event == 1
    unknown = AppendEvent(RunRef(MAIN, "main", workflow_id="unknown"), "Paid", NULL, 0, 0)
    assert world.ask((unknown, asked())) == [first]


def test_a_refusal_leaves_no_record() -> None:
    world = World()
    key = driven(world)
    world.do(MarkRunCompleted(world.ref(key), NULL, 0))
    for _ in range(2):
        (refused,) = world.ask((append(world, key), asked()))
        assert isinstance(refused, errors.RunTerminal)
    assert world.store.requests == {}


def test_an_answer_without_a_change_is_recorded_too() -> None:
    world = World()
    key = world.start()
    world.do(PauseRun(world.ref(key), "r"))
    (in_vain,) = world.ask((PauseRun(world.ref(key), "r"), asked(kind=Steered)))
    assert not in_vain.accepted
    assert list(world.store.requests) == [("r", MAIN, "AppendEvent")]


def test_plain_answers_come_back_as_they_were() -> None:
    world = World()
    key = driven(world)
    for order, answer in ((ReturnActivity(world.ref(key), 1, 1), False), (CancelActivities(world.ref(key), 0), 0)):
        request = asked(type(order).__name__, kind=type(answer))
        assert [world.ask((order, request)) for _ in range(2)] == [[answer], [answer]]
