"""Code that went on with what its worker's activity came to, before it was told that this is recorded."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from tests.engine.code import COMPLETED, Code, activity, json
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.activities import CompleteActivity, FailActivity, Outcome
from stepwell_server.engine.grants import ReturnTask
from stepwell_server.engine.mending import StepName
from stepwell_server.engine.progress import ProgressAnswer, ProgressRun
from stepwell_server.engine.reported import NewTimer, Result
from stepwell_server.engine.settling import EndStep
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import Failure
from stepwell_server.model.runs import Phase
from stepwell_server.model.steps import StepState

ORDINAL, TOKEN = 1, 1


def waiting(*more: Any) -> tuple[World, int, Code]:
    """A run that waits, in its worker's memory, for an activity that the worker is at, and for whatever else."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.run("a", activity(), waiting=True, resident=True)
    for each in more:
        code.run("b", each, waiting=True, resident=True)
    assert world.grant(key, ORDINAL) is not None
    return world, key, code


def completed(world: World, key: int, token: int = TOKEN) -> CompleteActivity:
    return CompleteActivity(world.ref(key), ORDINAL, world.session, token, json("1"))


def ahead(progress: ProgressRun, token: int = TOKEN) -> ProgressRun:
    return replace(progress, ahead_of=[Result(ORDINAL, token)])


def test_the_end_is_recorded_with_the_completion_that_it_follows() -> None:
    """In one batch, in their order; nobody is told of an end that the code knows."""
    world, key, code = waiting()
    outcome, answer = world.batch(completed(world, key), ahead(code.message(end=COMPLETED)))
    assert (outcome, answer) == (Outcome(), ProgressAnswer(duplicate=False, ordinals=[], ended=[]))
    assert world.closed(key).phase == Phase.COMPLETED
    assert world.happened(key)[-2:] == [EventType.ACTIVITY_COMPLETED, EventType.RUN_COMPLETED]
    assert world.last is not None
    assert not world.last.subjects.runs[key].news.ended
    world.check()


@pytest.mark.parametrize("at_once", [True, False])
def test_so_is_what_the_code_does_next(at_once: bool) -> None:
    """Also if the completion is recorded before: then the worker hears of it, and knows it."""
    world, key, code = waiting()
    progress = ahead(code.message(code.call("next", activity()), waiting=True, resident=True))
    if at_once:
        _, answer = world.batch(completed(world, key), progress)
    else:
        world.do(completed(world, key))
        answer = world.do(progress)
    assert answer.ordinals == [2]
    assert world.ended(key, 1).state == StepState.COMPLETED
    assert (world.step(key, 2).state, world.run(key).phase) == (StepState.PENDING, Phase.SUSPENDED)
    world.check()
    # Sent again, it is what it was, though something is open now.
    assert world.do(progress).duplicate


def test_what_is_not_recorded_counts_for_nothing() -> None:
    """The attempt was over, and another one goes on; the run is its worker's still, which gives it back."""
    world, key, code = waiting()
    lost, refused = world.batch(completed(world, key, TOKEN + 1), ahead(code.message(end=COMPLETED), TOKEN + 1))
    assert isinstance(lost, errors.LeaseLost)
    assert isinstance(refused, errors.ResultNotRecorded)
    assert world.step(key, ORDINAL).state == StepState.RUNNING
    assert world.run(key).session_id == world.session


def test_nor_does_what_follows_another_attempts_result() -> None:
    world, key, code = waiting()
    world.do(completed(world, key))
    with pytest.raises(errors.ResultNotRecorded):
        world.do(ahead(code.message(end=COMPLETED), TOKEN + 1))


def test_nor_what_follows_a_result_that_somebody_else_gave() -> None:
    """The attempt was over and nobody was at the next one yet, when somebody completed the step by hand."""
    world, key, code = waiting()
    world.do(ReturnTask(world.ref(key), ORDINAL, TOKEN, world.session, counts=True, reason="timed out"))
    world.do(EndStep(world.ref(key), StepName(ORDINAL), StepState.COMPLETED, "", payload=json('"other"')))
    lost, refused = world.batch(completed(world, key), ahead(code.message(end=COMPLETED)))
    assert isinstance(lost, errors.LeaseLost)
    assert isinstance(refused, errors.ResultNotRecorded)


def test_nor_what_follows_a_failure() -> None:
    """That the attempt has failed for good is told by the service, which decides it."""
    world, key, code = waiting()
    failure = Failure("no", non_retryable=True)
    world.do(FailActivity(world.ref(key), ORDINAL, world.session, TOKEN, failure))
    with pytest.raises(errors.ResultNotRecorded):
        world.do(ahead(code.message(end=COMPLETED)))


def test_code_that_waits_for_more_must_hear_in_the_order_of_the_record() -> None:
    """The timer may have fired before the activity was done."""
    world, key, code = waiting(NewTimer(9))
    _, refused = world.batch(completed(world, key), ahead(code.message(end=COMPLETED)))
    assert isinstance(refused, errors.ResultNotRecorded)
    assert world.ended(key, ORDINAL).state == StepState.COMPLETED


def test_changed_code_that_went_ahead_is_not_held_against_it() -> None:
    """What it did follows from a result that is not recorded: the run is not paused."""
    world, key, code = waiting()
    code.counts[""] = 5
    with pytest.raises(errors.ResultNotRecorded):
        world.do(ahead(code.message(end=COMPLETED)))
    assert world.run(key).pause_reason is None
