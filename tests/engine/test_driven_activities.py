"""Activities of driven runs: every verb in every state, by the table of legal moves, and who gets which when."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.engine.world import MAIN, START, World

from stepwell_server import errors
from stepwell_server.engine.activities import NewActivity
from stepwell_server.engine.activity_claims import ClaimedActivity, InterruptActivity, ReturnActivity
from stepwell_server.engine.committer.opening import HELD
from stepwell_server.engine.committer.protocols import ActivityClaim
from stepwell_server.engine.driven_activities import (
    ActivityAnswer,
    CancelActivities,
    CreateActivity,
    EndActivity,
    RequeueActivity,
)
from stepwell_server.engine.driven_runs import MarkRunCompleted
from stepwell_server.engine.limits import Limits
from stepwell_server.model.payloads import NULL, Failure
from stepwell_server.model.steps import STEP_MOVES, RetryPolicy, StepState

BOOM = Failure("boom")
ONE = 1  # the activity's ordinal, and its token once it is claimed


def driven(world: World) -> int:
    return world.start(driven=True, managed=False)


def create(world: World, key: int, seq: int = 1, **fields: Any) -> CreateActivity:
    given = {"attempt": 1, "schedule_time": None, "running": False, "token": 0, **fields}
    return CreateActivity(world.ref(key), seq, given.pop("activity", NewActivity("send", "q")), **given)


def claim(seconds: float | None = None, owner_id: str = "w", queue: str = "q") -> ActivityClaim:
    now = None if seconds is None else START + timedelta(seconds=seconds)
    return ActivityClaim(MAIN, "main", queue, owner_id, now)


def waiting(world: World, key: int) -> None:
    world.do(create(world, key))


def running(world: World, key: int) -> None:
    waiting(world, key)
    assert isinstance(world.do(claim()), ClaimedActivity)


def ended(failure: Failure | None) -> Callable[[World, int], None]:
    def end(world: World, key: int) -> None:
        running(world, key)
        world.do(EndActivity(world.ref(key), ONE, NULL, failure, 0))

    return end


def cancelled(world: World, key: int) -> None:
    waiting(world, key)
    assert world.do(CancelActivities(world.ref(key), 0)) == 1


STATES: dict[StepState, Callable[[World, int], None]] = {
    StepState.PENDING: waiting,
    StepState.RUNNING: running,
    StepState.COMPLETED: ended(None),
    StepState.FAILED: ended(BOOM),
    StepState.CANCELLED: cancelled,
}
VERBS: dict[str, tuple[Callable[[World, int], Any], StepState, set[StepState]]] = {
    "complete": (
        lambda world, key: EndActivity(world.ref(key), ONE, NULL, None, 0),
        StepState.COMPLETED,
        {StepState.RUNNING},
    ),
    "fail": (
        lambda world, key: EndActivity(world.ref(key), ONE, NULL, BOOM, 0),
        StepState.FAILED,
        {StepState.RUNNING},
    ),
    "requeue": (
        lambda world, key: RequeueActivity(world.ref(key), ONE, 2, None, 0),
        StepState.PENDING,
        {StepState.PENDING, StepState.RUNNING, StepState.FAILED},
    ),
}


def state_of(world: World, key: int) -> StepState:
    step = world.store.steps.get((key, ONE)) or world.store.closed_steps[key, ONE]
    return StepState(step.state)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_in_a_state(verb: str, state: StepState) -> None:
    """It leads where it should, or is refused without a trace. What waits is in its queue, and nothing else."""
    world = World()
    key = driven(world)
    STATES[state](world, key)
    order, leads_to, allowed = VERBS[verb]
    before = world.events(key)[:]
    if state in allowed:
        answer = world.do(order(world, key))
        assert isinstance(answer, ActivityAnswer)
        assert answer.done
        assert state_of(world, key) == leads_to
        # A failed one tries again because its engine says so; everything else goes by the table.
        assert leads_to in STEP_MOVES[state] | {state} or (state, leads_to) == (StepState.FAILED, StepState.PENDING)
    else:
        with pytest.raises(errors.StepStateConflict):
            world.do(order(world, key))
        assert (state_of(world, key), world.events(key)) == (state, before)
    assert world.is_queued(key, ONE) == (state_of(world, key) == StepState.PENDING)
    world.check()


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_only_what_is_at_work_goes_back(state: StepState) -> None:
    """Returned, its attempt is not spent; interrupted, it is. Nobody but its holder is listened to."""
    for interrupted in (False, True):
        world = World()
        key = driven(world)
        STATES[state](world, key)
        assert world.do(ReturnActivity(world.ref(key), ONE, 9)) is False
        assert world.do(InterruptActivity(world.ref(key), ONE, "other", "lost")) is False
        order: Any = ReturnActivity(world.ref(key), ONE, 1)
        if interrupted:
            order = InterruptActivity(world.ref(key), ONE, "w", "lost")
        assert world.do(order) is (state == StepState.RUNNING)
        if state == StepState.RUNNING:
            assert (state_of(world, key), world.step(key, ONE).attempt) == (StepState.PENDING, int(interrupted))
            assert world.is_queued(key, ONE)
        assert world.do(order) is False
        world.check()


def test_the_last_attempt_that_is_interrupted_fails() -> None:
    world = World()
    key = driven(world)
    world.do(create(world, key, activity=NewActivity("send", "q", retry=RetryPolicy(maximum_attempts=2))))
    for attempt in (1, 2):
        assert world.do(claim()).step.attempt == attempt
        assert world.do(InterruptActivity(world.ref(key), ONE, "w", "lost"))
    assert state_of(world, key) == StepState.FAILED
    assert world.do(claim()) is None


def test_the_token_rises_with_each_claim() -> None:
    world = World()
    key = driven(world)
    waiting(world, key)
    for token in (1, 2, 3):
        assert world.do(claim()).step.grants == token
        with pytest.raises(errors.LeaseLost):
            world.do(EndActivity(world.ref(key), ONE, NULL, None, token - 1 or 9))
        world.do(RequeueActivity(world.ref(key), ONE, token + 1, None, token))


def test_claims_of_one_batch_get_one_each() -> None:
    """The longest waiting first, whoever claims; what is to be had later waits on; other queues are left alone."""
    world = World()
    keys = [driven(world) for _ in range(2)]
    for seq, (key, seconds) in enumerate([(keys[0], 5), (keys[1], 3), (keys[0], 4), (keys[1], 9)]):
        world.do(create(world, key, seq, schedule_time=START + timedelta(seconds=seconds)))
    world.do(create(world, keys[0], 9, activity=NewActivity("send", "other")))
    orders = [claim(4), claim(5), claim(3), claim(5), claim(5, queue="none")]
    answers = world.batch(*orders)
    claimed = [answer.step.seq if isinstance(answer, ClaimedActivity) else None for answer in answers]
    assert sorted(seq for seq in claimed if seq is not None) == [0, 1, 2]
    assert claimed[-1] is None
    assert world.is_queued(keys[1], 2)
    world.check()


def test_a_claim_whose_run_is_locked_waits_aside() -> None:
    """Somebody else's batch has the run: there may be something in a moment."""
    world = World()
    key = driven(world)
    waiting(world, key)
    world.store.locked.add(key)
    assert world.batch(claim()) == [HELD]
    world.store.locked.clear()
    assert isinstance(world.do(claim()), ClaimedActivity)


def test_a_claimed_activity_is_not_offered_to_connected_workers() -> None:
    """Neither when it is created nor when it comes back."""
    world = World()
    key = driven(world)
    for order in (create(world, key), claim(), RequeueActivity(world.ref(key), ONE, 2, None, 0)):
        world.do(order)
        assert world.last is not None
        assert not any(change.news.tasks for change in world.last.subjects.runs.values())


def test_a_failed_one_is_not_queued_again_beyond_the_limit_of_open_steps() -> None:
    world = World(Limits(open_steps=1))
    key = driven(world)
    STATES[StepState.FAILED](world, key)
    world.do(create(world, key, 2))
    with pytest.raises(errors.LimitExceeded):
        world.do(RequeueActivity(world.ref(key), ONE, 2, None, 0))
    assert state_of(world, key) == StepState.FAILED
    world.check()


def test_the_end_of_the_run_takes_them_along() -> None:
    world = World()
    key = driven(world)
    world.do(create(world, key, 1))
    world.do(create(world, key, 2))
    world.do(claim())
    world.do(MarkRunCompleted(world.ref(key), NULL, 0))
    assert [world.ended(key, ordinal).state for ordinal in (1, 2)] == [StepState.CANCELLED] * 2
    with pytest.raises(errors.RunTerminal):
        world.do(RequeueActivity(world.ref(key), 1, 2, None, 0))
    with pytest.raises(errors.StepStateConflict):
        world.do(EndActivity(world.ref(key), 1, NULL, None, 1))
    world.check()
