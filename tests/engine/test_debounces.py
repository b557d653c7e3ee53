"""Debounced starts: of several in quick succession comes one run, with the input of the last."""

from __future__ import annotations

from typing import Any

from tests.engine.code import COMPLETED, Code, json
from tests.engine.world import MAIN, World

from stepwell_server.engine.runs import CancelRun, LookAtRun, PauseRun, ResumeRun
from stepwell_server.engine.starts import NewRun, Started, StartRun
from stepwell_server.model.debounces import Debounce
from stepwell_server.model.events import EventType
from stepwell_server.model.runs import Phase, RunDetails

PERIOD, LONGEST = 10.0, 25.0


def order(text: str = "1", key: str = "k", longest: float | None = None, **fields: Any) -> StartRun:
    details = RunDetails(debounce=Debounce(key, PERIOD, longest))
    fields = {"type": "flow", "task_queue": "q", "delay_seconds": PERIOD, **fields}
    return StartRun(NewRun(namespace_id=MAIN, namespace="main", input=json(text), details=details, **fields))


def started(world: World, *texts: str, **how: Any) -> list[Started]:
    return world.batch(*(order(text, **how) for text in texts))


def test_starts_that_come_soon_are_one_run() -> None:
    """Also within a batch: the first starts it, the others push it on, and it begins once, with the last input."""
    world = World()
    first, second = started(world, "1", "2")
    assert (first.started, second.started, second.run_key) == (True, False, first.run_key)
    world.advance(6)
    (third,) = started(world, "3")
    assert (third.started, third.run_id) == (False, first.run_id)
    world.advance(6)
    look = LookAtRun(world.ref(first.run_key))
    assert world.do(look) is False
    world.advance(4)
    assert world.do(look) is True
    grant = world.grant(first.run_key)
    assert grant is not None
    assert world.happened(first.run_key) == [EventType.RUN_STARTED, EventType.RUN_DEBOUNCED, EventType.RUN_DEBOUNCED]
    assert world.events(first.run_key)[-1].payload == b"3"
    (fourth,) = started(world, "4")
    assert fourth.started
    assert fourth.run_key != first.run_key
    world.check()


def test_it_begins_at_the_latest_some_time_after_the_first() -> None:
    world = World()
    (first,) = started(world, "1", longest=LONGEST)
    for text in "234":
        world.advance(7)
        started(world, text, longest=LONGEST)
    world.advance(4)
    assert world.do(LookAtRun(world.ref(first.run_key))) is True
    assert world.is_queued(first.run_key)


def test_other_keys_and_types_have_runs_of_their_own() -> None:
    world = World()
    keys = {world.do(each).run_key for each in (order(), order(key="other"), order(type="other"))}
    assert len(keys) == 3
    assert len(world.store.slots.debounced) == 3


def test_a_run_that_has_ended_or_begun_is_pushed_on_no_more() -> None:
    """A cancelled one has ended; one that is paused still waits, until it is let go on after its time."""
    world = World()
    (first,) = started(world, "1")
    ended, second = world.batch(CancelRun(world.ref(first.run_key), ""), order("2"))
    assert ended.phase == Phase.CANCELLED
    assert second.started
    ref = world.ref(second.run_key)
    world.do(PauseRun(ref, "test"))
    assert not started(world, "3")[0].started
    world.advance(PERIOD)
    world.do(LookAtRun(ref))
    assert not world.is_queued(second.run_key)
    world.do(ResumeRun(ref, accept_order=False))
    assert world.is_queued(second.run_key)
    assert world.store.slots.debounced == {}
    Code(world, second.run_key).end(COMPLETED)
    assert started(world, "4")[0].started
