"""Timers of driven runs: they fire when their engine asks, at the time that it gives, and once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.engine.code import Code
from tests.engine.world import START, World

from stepwell_server.engine.driven_timers import CreateTimer, FireTimer
from stepwell_server.engine.reported import NewTimer
from stepwell_server.model.steps import StepState


def fire(world: World, key: int, seconds: float) -> Any:
    return world.do(FireTimer(world.ref(key), 1, START + timedelta(seconds=seconds)))


def test_a_timer_fires_once_and_not_before_its_time() -> None:
    world = World()
    key = world.start(driven=True, managed=False)
    world.do(CreateTimer(world.ref(key), 1, START + timedelta(seconds=5), 0))
    world.advance(60)
    assert fire(world, key, 4) is None
    assert world.step(key, 1).state == StepState.WAITING
    assert fire(world, key, 5).done
    assert fire(world, key, 6) is None
    assert world.ended(key, 1).state == StepState.COMPLETED
    world.check()


def test_a_timer_of_the_services_own_is_nobody_elses_to_fire() -> None:
    world = World()
    key = world.start()
    Code(world, key).run("t", NewTimer(5), waiting=True)
    assert fire(world, key, 60) is None
    assert world.step(key, 1).state == StepState.WAITING
