"""Activities: every report in every state, attempts and returns, timeouts."""

from __future__ import annotations

from uuid import uuid4

import pytest
from msgspec.structs import replace
from tests.engine.code import Code, activity
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.activities import (
    CancelledActivity,
    CompleteActivity,
    FailActivity,
    Outcome,
)
from stepwell_server.engine.grants import ReturnTask
from stepwell_server.engine.limits import Limits
from stepwell_server.engine.timers import FireStep
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import NULL, Failure
from stepwell_server.model.steps import RetryPolicy, StepState, Timeouts, unpack_step_details
from stepwell_server.model.tasks import Grant, TaskKind

Report = CompleteActivity | FailActivity | CancelledActivity
ONCE = RetryPolicy(maximum_attempts=1)
FAILED = Failure("no", "Broken")


def scheduled(retry: RetryPolicy | None = ONCE, timeouts: Timeouts | None = None) -> tuple[World, int]:
    """A run that waits, in its worker's memory, for one activity."""
    world = World()
    key = world.start()
    Code(world, key).run("a", activity(retry=retry, timeouts=timeouts), waiting=True, resident=True)
    return world, key


def granted(world: World, key: int) -> Grant:
    grant = world.grant(key, 1)
    assert grant is not None
    return grant


def reports(world: World, key: int, grant: Grant) -> dict[str, Report]:
    step = grant.step
    assert step is not None
    named = (world.ref(key), 1, grant.session_id, step.grants)
    return {
        "complete": CompleteActivity(*named, NULL),
        "fail": FailActivity(*named, FAILED),
        "cancelled": CancelledActivity(*named, NULL),
    }


ENDS = {
    "complete": (StepState.COMPLETED, EventType.ACTIVITY_COMPLETED),
    "fail": (StepState.FAILED, EventType.ACTIVITY_FAILED),
    "cancelled": (StepState.CANCELLED, EventType.ACTIVITY_CANCELLED),
}


@pytest.mark.parametrize("report", ENDS)
def test_a_report_of_the_holder_ends_a_running_step(report: str) -> None:
    """It is recorded, the run's holder is to hear of it, and a repeat is told that it was recorded before."""
    world, key = scheduled()
    order = reports(world, key, granted(world, key))[report]
    assert world.do(order) == Outcome(duplicate=False)
    state, kind = ENDS[report]
    assert world.ended(key, 1).state == state
    assert world.happened(key)[-1] == kind
    assert world.run(key).dirty
    assert world.do(order) == Outcome(duplicate=True)
    assert world.happened(key).count(kind) == 1
    world.check()


@pytest.mark.parametrize("report", ENDS)
@pytest.mark.parametrize("first", ENDS)
def test_a_step_ends_once(first: str, report: str) -> None:
    """Another report about an ended step is refused; the same one is a repeat."""
    world, key = scheduled()
    orders = reports(world, key, granted(world, key))
    world.do(orders[first])
    if report == first:
        assert world.do(orders[report]).duplicate
        return
    with pytest.raises(errors.LeaseLost):
        world.do(orders[report])


@pytest.mark.parametrize("report", ENDS)
def test_a_foreign_session_or_a_stale_token_is_refused(report: str) -> None:
    """Only who holds the step, under the token of this very grant, reports on it: while it runs and after its end."""
    world, key = scheduled(RetryPolicy(initial_seconds=0.0))
    first = reports(world, key, granted(world, key))
    world.do(ReturnTask(world.ref(key), 1, first["fail"].token, world.session, counts=True, reason="lost"))
    second = reports(world, key, granted(world, key))
    with pytest.raises(errors.LeaseLost):
        world.do(first[report])
    order = second[report]
    with pytest.raises(errors.LeaseLost):
        world.do(replace(order, session_id=uuid4()))
    with pytest.raises(errors.LeaseLost):
        world.do(replace(order, token=order.token + 1))
    assert world.step(key, 1).state == StepState.RUNNING
    world.do(second["complete"])
    with pytest.raises(errors.LeaseLost):
        world.do(first[report])
    world.check()


@pytest.mark.parametrize("report", ENDS)
@pytest.mark.parametrize("place", ["absent", "pending", "backing off"])
def test_a_report_about_what_nobody_holds_is_refused(place: str, report: str) -> None:
    """A step that is not there, that waits in its queue or that backs off takes no report."""
    world, key = scheduled(RetryPolicy())
    grant = granted(world, key)
    orders = reports(world, key, grant)
    order = orders[report]
    if place == "absent":
        order = replace(order, ordinal=9)
    elif place == "pending":
        world.do(ReturnTask(world.ref(key), 1, order.token, world.session, counts=False, reason=""))
        with pytest.raises(errors.LeaseLost):
            world.do(replace(order, token=0))
    else:
        world.do(orders["fail"])
        if report == "fail":
            return
    with pytest.raises(errors.LeaseLost):
        world.do(order)


@pytest.mark.parametrize("later", ["backing off", "under way again", "ended"])
def test_a_failure_told_again_is_recognised_though_the_step_went_on(later: str) -> None:
    """Whoever missed the answer hears DUPLICATE, and nothing comes of it; another report of that grant is refused."""
    world, key = scheduled(RetryPolicy(initial_seconds=0.0 if later != "backing off" else 5.0))
    first = reports(world, key, granted(world, key))
    world.do(first["fail"])
    if later != "backing off":
        second = reports(world, key, granted(world, key))
        if later == "ended":
            world.do(second["complete"])
    events = len(world.events(key))
    assert world.do(first["fail"]).duplicate
    assert len(world.events(key)) == events
    for other in ("complete", "cancelled"):
        with pytest.raises(errors.LeaseLost):
            world.do(first[other])
    world.check()


def test_a_failure_told_after_the_attempt_timed_out_is_no_repeat() -> None:
    """What is recorded is the timeout, not what the worker says: its lease is lost."""
    world, key = scheduled(RetryPolicy(), Timeouts(start_to_close=1))
    late = reports(world, key, granted(world, key))["fail"]
    world.advance(2)
    world.do(FireStep(world.ref(key), 1))
    assert world.step(key, 1).state == StepState.PENDING
    with pytest.raises(errors.LeaseLost):
        world.do(late)


# --- attempts ---------------------------------------------------------------------------------------------------------


def test_a_failed_attempt_backs_off_and_is_tried_again() -> None:
    """It waits outside its queue for its delay, then anybody may have it, one attempt later, with the last failure."""
    world, key = scheduled(RetryPolicy(initial_seconds=4.0, maximum_attempts=3))
    for attempt, delay in ((1, 4.0), (2, 8.0)):
        grant = granted(world, key)
        assert grant.step is not None
        assert grant.step.attempt == attempt
        world.do(reports(world, key, grant)["fail"])
        assert not world.is_queued(key, 1)
        world.advance(delay - 0.001)
        assert world.do(FireStep(world.ref(key), 1)) is False
        world.advance(0.001)
        assert world.do(FireStep(world.ref(key), 1)) is True
        assert world.is_queued(key, 1)
        assert unpack_step_details(world.step(key, 1).details).last_failure == FAILED
    world.do(reports(world, key, granted(world, key))["fail"])
    assert world.ended(key, 1).state == StepState.FAILED
    assert world.happened(key).count(EventType.ACTIVITY_ATTEMPT_FAILED) == 2
    world.check()


def test_an_unacknowledged_return_costs_no_attempt_until_the_tenth() -> None:
    """A task that workers die of before they acknowledge it does not go round for ever."""
    world, key = scheduled(RetryPolicy(maximum_attempts=1))
    for returns in range(1, Limits().returns):
        grant = granted(world, key)
        assert grant.step is not None
        assert world.do(ReturnTask(world.ref(key), 1, grant.step.grants, world.session, counts=False, reason="ack"))
        assert (world.step(key, 1).attempt, world.step(key, 1).returns) == (0, returns)
        assert world.is_queued(key, 1)
    grant = granted(world, key)
    assert grant.step is not None
    assert world.do(ReturnTask(world.ref(key), 1, grant.step.grants, world.session, counts=False, reason="ack"))
    assert world.ended(key, 1).state == StepState.FAILED
    world.check()


def test_a_lost_attempt_is_spent_and_the_next_one_follows_at_once() -> None:
    """A worker that is lost costs an attempt; the step waits in its queue again if there is another."""
    world, key = scheduled(RetryPolicy(maximum_attempts=2))
    for _ in range(2):
        grant = granted(world, key)
        assert grant.step is not None
        assert world.do(ReturnTask(world.ref(key), 1, grant.step.grants, world.session, counts=True, reason="lost"))
    assert world.ended(key, 1).state == StepState.FAILED
    assert world.happened(key).count(EventType.ACTIVITY_INTERRUPTED) == 2
    world.check()


@pytest.mark.parametrize("ordinal", [0, 1])
@pytest.mark.parametrize("wrong", ["session", "token"])
def test_a_return_by_another_changes_nothing(ordinal: int, wrong: str) -> None:
    """Runs and activities come back only from who holds them, under the present token."""
    world, key = scheduled()
    grant = granted(world, key)
    token = world.run(key).grants if ordinal == 0 else grant.step.grants if grant.step else 0
    session = uuid4() if wrong == "session" else world.session
    order = ReturnTask(world.ref(key), ordinal, token + (wrong == "token"), session, counts=True, reason="")
    assert world.do(order) is False
    assert world.write is None


@pytest.mark.parametrize("kind", [TaskKind.RUN, TaskKind.ACTIVITY])
def test_a_claim_takes_by_priority_then_age(kind: TaskKind) -> None:
    """Higher priorities go first, then the older; nobody gets a type that was not asked for."""
    world = World()
    for priority, name in ((4, "act"), (9, "act"), (4, "act"), (9, "other")):
        key = world.start(priority=priority, type=name)
        if kind == TaskKind.ACTIVITY:
            code = Code(world, key)
            code.run("a", activity(type=name), waiting=True, resident=True)
        world.advance(1)
    grants = world.claim(kind, ("act",), 3)
    assert [grant.run.run_key for grant in grants] == [2, 1, 3]
    assert world.claim(kind, ("act",), 3) == []
    world.check()
