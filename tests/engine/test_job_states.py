"""Jobs: every command in every situation of one, and the legal moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.activities import CancelledActivity, CompleteActivity, FailActivity, Outcome
from stepwell_server.engine.grants import GrantTask, ReturnTask
from stepwell_server.engine.jobs import CancelJob, RetryJob
from stepwell_server.engine.timers import FireStep
from stepwell_server.model.jobs import JOB_ENDED, JOB_MOVES, JOB_ORDINAL, JobRef
from stepwell_server.model.payloads import JSON, NULL, Failure, Payload
from stepwell_server.model.steps import RetryPolicy, StepDetails, StepState

GIVEN, CAME, FAILED = Payload(JSON, b'"in"'), Payload(JSON, b'"out"'), Failure("no luck", "ValueError")
ONCE = StepDetails(retry=RetryPolicy(maximum_attempts=1))
SLOWLY = StepDetails(retry=RetryPolicy(initial_seconds=10.0))
PENDING, RUNNING = StepState.PENDING, StepState.RUNNING
COMPLETED, ENDED_FAILED, CANCELLED = StepState.COMPLETED, StepState.FAILED, StepState.CANCELLED

# --- situations -------------------------------------------------------------------------------------------------------


def queued(world: World) -> int:
    return world.start_job(details=ONCE, input=GIVEN)


def delayed(world: World) -> int:
    return world.start_job(details=ONCE, delay_seconds=60.0)


def held(world: World) -> int:
    key = queued(world)
    assert world.grant_job(key) is not None
    return key


def backing_off(world: World) -> int:
    key = world.start_job(details=SLOWLY)
    world.grant_job(key)
    world.do(FailActivity(world.job_ref(key), JOB_ORDINAL, world.session, 1, FAILED))
    return key


def asked_to_stop(world: World) -> int:
    key = held(world)
    world.do(CancelJob(world.job_ref(key), "enough"))
    return key


def completed(world: World) -> int:
    key = held(world)
    world.do(CompleteActivity(world.job_ref(key), JOB_ORDINAL, world.session, 1, CAME))
    return key


def failed(world: World) -> int:
    key = held(world)
    world.do(FailActivity(world.job_ref(key), JOB_ORDINAL, world.session, 1, FAILED))
    return key


def cancelled(world: World) -> int:
    key = queued(world)
    world.do(CancelJob(world.job_ref(key), "enough"))
    return key


def stopped(world: World) -> int:
    key = asked_to_stop(world)
    world.do(CancelledActivity(world.job_ref(key), JOB_ORDINAL, world.session, 1, NULL))
    return key


SITUATIONS: dict[str, Callable[[World], int]] = {
    each.__name__: each
    for each in (queued, delayed, held, backing_off, asked_to_stop, completed, failed, cancelled, stopped)
}

# --- commands ---------------------------------------------------------------------------------------------------------

COMMANDS: dict[str, Callable[[World, JobRef], Any]] = {
    "grant": lambda world, ref: GrantTask(ref, JOB_ORDINAL, uuid4(), "other"),
    "complete": lambda world, ref: CompleteActivity(ref, JOB_ORDINAL, world.session, 1, CAME),
    "complete by another": lambda world, ref: CompleteActivity(ref, JOB_ORDINAL, uuid4(), 1, CAME),
    "complete stale": lambda world, ref: CompleteActivity(ref, JOB_ORDINAL, world.session, 0, CAME),
    "fail": lambda world, ref: FailActivity(ref, JOB_ORDINAL, world.session, 1, FAILED),
    "stop": lambda world, ref: CancelledActivity(ref, JOB_ORDINAL, world.session, 1, NULL),
    "release": lambda world, ref: ReturnTask(ref, JOB_ORDINAL, 1, world.session, counts=False, reason="no"),
    "lose": lambda world, ref: ReturnTask(ref, JOB_ORDINAL, 1, world.session, counts=True, reason="lost"),
    "lose stale": lambda world, ref: ReturnTask(ref, JOB_ORDINAL, 0, world.session, counts=True, reason="lost"),
    "fire": lambda world, ref: FireStep(ref, JOB_ORDINAL),
    "cancel": lambda world, ref: CancelJob(ref, "why"),
    "retry": lambda world, ref: RetryJob(ref),
}
LOST, NOT_FAILED = errors.LeaseLost, errors.JobNotFailed
NO = "nothing"
# What each command makes of each situation: the state that follows, NO for nothing at all, or the refusal.
EFFECTS: dict[str, dict[str, object]] = {
    "grant": {"open": RUNNING, "held": NO, "asked_to_stop": NO, "closed": NO},
    "complete": {"open": LOST, "held": COMPLETED, "asked_to_stop": COMPLETED, "completed": NO, "closed": LOST},
    "complete by another": {"open": LOST, "completed": NO, "closed": LOST},
    "complete stale": {"open": LOST, "closed": LOST},
    "fail": {
        "open": LOST,
        "held": ENDED_FAILED,
        "backing_off": NO,
        "asked_to_stop": CANCELLED,
        "failed": NO,
        "closed": LOST,
    },
    "stop": {"open": LOST, "held": CANCELLED, "asked_to_stop": CANCELLED, "stopped": NO, "closed": LOST},
    "release": {"open": NO, "held": PENDING, "asked_to_stop": CANCELLED, "closed": NO},
    "lose": {"open": NO, "held": ENDED_FAILED, "asked_to_stop": CANCELLED, "closed": NO},
    "lose stale": {"open": NO, "closed": NO},
    "fire": {"open": NO, "closed": NO},
    "cancel": {"open": CANCELLED, "held": RUNNING, "asked_to_stop": NO, "closed": NO},
    "retry": {"open": NOT_FAILED, "failed": PENDING, "closed": NOT_FAILED},
}
# A task is asked for by whoever found it: these have none, and nobody asks.
NO_TASK = {("delayed", "grant"), ("backing_off", "grant")}
CASES = [
    (situation, command) for situation in SITUATIONS for command in COMMANDS if (situation, command) not in NO_TASK
]


def state_of(world: World, key: int) -> StepState:
    jobs = world.store.jobs
    return StepState((jobs.jobs.get(key) or jobs.closed[key]).state)


@pytest.mark.parametrize(("situation", "command"), CASES, ids=lambda each: each.replace(" ", "-"))
def test_a_command_in_a_situation(situation: str, command: str) -> None:
    """As the table says; what is refused or comes to nothing writes nothing, and every move is a legal one."""
    world = World()
    key = SITUATIONS[situation](world)
    before = state_of(world, key)
    (answer,) = world.batch(COMMANDS[command](world, world.job_ref(key)))
    effects = EFFECTS[command]
    expected = effects.get(situation, effects["closed" if before in JOB_ENDED else "open"])
    after = state_of(world, key)
    if isinstance(expected, StepState):
        assert after == expected
        assert after == before or after in JOB_MOVES[before]
        assert world.write is not None
    else:
        assert world.write is None
        assert after == before
        if isinstance(expected, type):
            assert isinstance(answer, expected)
        else:
            assert answer in (None, False, Outcome(duplicate=True)) or answer.accepted is False
    world.check()


def test_the_table_of_moves_closes() -> None:
    """Every state leads to an end, and what has ended moves on only where somebody retries it."""
    assert set(JOB_MOVES) > JOB_ENDED
    assert all(JOB_MOVES[state] & JOB_ENDED for state in set(JOB_MOVES) - JOB_ENDED)
    assert {state for state in JOB_ENDED if JOB_MOVES[state]} == {ENDED_FAILED}
