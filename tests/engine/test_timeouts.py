"""An activity's four timeouts: which comes first, what it does, and how heartbeats move it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.engine.code import complete
from tests.engine.test_activities import ONCE, granted, reports, scheduled
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.activities import (
    HEARTBEAT,
    SCHEDULE_TO_CLOSE,
    SCHEDULE_TO_START,
    START_TO_CLOSE,
)
from stepwell_server.engine.timers import FireStep
from stepwell_server.model.payloads import NULL, Failure
from stepwell_server.model.steps import RetryPolicy, StepState, Timeouts


def fires(world: World, key: int) -> None:
    """Lets time pass to the moment at which the step wants to be looked at, and looks: a moment before, nothing."""
    wake = world.step(key, 1).wake_time
    assert wake is not None
    world.advance((wake - world.now).total_seconds() - 0.001)
    assert world.do(FireStep(world.ref(key), 1)) is False
    world.advance(0.001)
    assert world.do(FireStep(world.ref(key), 1)) is True


def end_of(world: World, key: int) -> Failure:
    """The failure that a step ended with."""
    assert world.last is not None
    (ended,) = world.last.subjects.runs[key].news.ended
    assert ended.failure is not None
    return ended.failure


def held(world: World, key: int) -> None:
    granted(world, key)


def queued(world: World, key: int) -> None:
    """Leaves it in its queue."""


@pytest.mark.parametrize(
    ("timeouts", "before", "kind", "after"),
    [
        (Timeouts(schedule_to_start=5), queued, SCHEDULE_TO_START, 5),
        (Timeouts(schedule_to_close=5), queued, SCHEDULE_TO_CLOSE, 5),
        (Timeouts(schedule_to_close=5), held, SCHEDULE_TO_CLOSE, 5),
        (Timeouts(start_to_close=5), held, START_TO_CLOSE, 5),
        (Timeouts(heartbeat=5), held, HEARTBEAT, 5),
        (Timeouts(schedule_to_close=9, start_to_close=5, heartbeat=7), held, START_TO_CLOSE, 5),
        (Timeouts(schedule_to_start=3, schedule_to_close=9), held, SCHEDULE_TO_CLOSE, 9),
    ],
)
def test_the_timeout_that_comes_first(
    timeouts: Timeouts, before: Callable[[World, int], None], kind: int, after: float
) -> None:
    """Each of the four ends the activity at its time, and its failure names which."""
    world, key = scheduled(ONCE, timeouts)
    begun = world.now
    before(world, key)
    fires(world, key)
    assert (world.now - begun).total_seconds() == pytest.approx(after)
    assert end_of(world, key).timeout_kind == kind
    assert world.ended(key, 1).state == StepState.FAILED
    assert not world.is_queued(key, 1)
    world.check()


@pytest.mark.parametrize("kind", [SCHEDULE_TO_START, SCHEDULE_TO_CLOSE])
def test_a_timeout_of_the_whole_is_not_tried_again(kind: int) -> None:
    """Whatever the policy: the time for all attempts is over."""
    timeouts = Timeouts(schedule_to_start=5) if kind == SCHEDULE_TO_START else Timeouts(schedule_to_close=5)
    world, key = scheduled(RetryPolicy(), timeouts)
    fires(world, key)
    assert world.ended(key, 1).state == StepState.FAILED


@pytest.mark.parametrize("timeouts", [Timeouts(start_to_close=5), Timeouts(heartbeat=5)])
def test_a_timeout_of_an_attempt_is_tried_again_and_its_holder_loses_it(timeouts: Timeouts) -> None:
    """The worker is told, its late report is refused, and the next attempt has the whole time."""
    world, key = scheduled(RetryPolicy(initial_seconds=3.0), timeouts)
    late = complete(world, granted(world, key))
    fires(world, key)
    assert world.last is not None
    assert [revoke[:3] for revoke in world.last.subjects.runs[key].news.revokes] == [(world.session, 1, 1)]
    with pytest.raises(errors.LeaseLost):
        world.do(late)
    fires(world, key)
    assert world.is_queued(key, 1)
    world.do(complete(world, granted(world, key)))
    world.check()


def test_a_retry_that_would_come_after_the_close_fails_at_once() -> None:
    """Nobody waits for an attempt that has no time left."""
    world, key = scheduled(RetryPolicy(initial_seconds=10.0), Timeouts(schedule_to_close=10))
    world.do(reports(world, key, granted(world, key))["fail"])
    assert world.ended(key, 1).state == StepState.FAILED


def test_heartbeats_move_the_timeout() -> None:
    """Each beat gives the whole time anew; when they stop, the attempt times out that long after the last."""
    world, key = scheduled(ONCE, Timeouts(heartbeat=5))
    granted(world, key)
    for _ in range(4):
        world.advance(3)
        world.store.heartbeats[key, 1] = (world.now, NULL)
        wake = world.step(key, 1).wake_time
        assert wake is not None
        if wake <= world.now:
            assert world.do(FireStep(world.ref(key), 1)) is True
    assert world.step(key, 1).state == StepState.RUNNING
    fires(world, key)
    assert end_of(world, key).timeout_kind == HEARTBEAT
    beat = world.store.heartbeats[key, 1][0]
    assert (world.now - beat).total_seconds() == pytest.approx(5)


def test_no_beat_is_missed_while_none_could_be_written() -> None:
    """Beats count from when they could be written again: the whole time is there anew, for each attempt once."""
    world, key = scheduled(ONCE, Timeouts(heartbeat=5))
    granted(world, key)
    world.advance(60)
    back = world.now
    assert world.do(FireStep(world.ref(key), 1, back)) is True
    assert world.step(key, 1).state == StepState.RUNNING
    world.advance(4.999)
    assert world.do(FireStep(world.ref(key), 1, back)) is False
    world.advance(0.001)
    assert world.do(FireStep(world.ref(key), 1, back)) is True
    assert end_of(world, key).timeout_kind == HEARTBEAT


def test_the_other_timeouts_go_on_meanwhile() -> None:
    world, key = scheduled(ONCE, Timeouts(heartbeat=5, start_to_close=50))
    granted(world, key)
    world.advance(60)
    assert world.do(FireStep(world.ref(key), 1, world.now)) is True
    assert end_of(world, key).timeout_kind == START_TO_CLOSE


def test_a_beat_of_an_earlier_attempt_does_not_count() -> None:
    """An attempt that never beats times out its full time after its own start, and is not looked at before."""
    policy = RetryPolicy(initial_seconds=2.0, maximum_attempts=2)
    world, key = scheduled(policy, Timeouts(heartbeat=5, start_to_close=99))
    first = granted(world, key)
    world.advance(1)
    world.store.heartbeats[key, 1] = (world.now, NULL)
    world.do(reports(world, key, first)["fail"])
    fires(world, key)
    granted(world, key)
    begun = world.now
    fires(world, key)
    assert (world.now - begun).total_seconds() == pytest.approx(5)
    assert end_of(world, key).timeout_kind == HEARTBEAT
