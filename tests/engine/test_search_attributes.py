"""Search attributes of runs: merged name by name, bounded, kept beyond the end, handed on, and set once by code."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.engine.code import COMPLETED, Code
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.committer.opening import HELD
from stepwell_server.engine.limits import Limits
from stepwell_server.engine.mending import RetryRun
from stepwell_server.engine.reported import End, NewWait, SetAttributes, Successor
from stepwell_server.engine.runs import TerminateRun
from stepwell_server.engine.search_attributes import Attributed, UpsertSearchAttributes
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import NULL, Failure
from stepwell_server.model.runs import Phase, RunDetails, unpack_details
from stepwell_server.model.search_attributes import ABSENT, AttributeKind, AttributeValue, flag
from stepwell_server.model.steps import RetryPolicy, StepState

PROD = AttributeValue(AttributeKind.TEXT, "prod")
STAGING = AttributeValue(AttributeKind.TEXT, "staging")
HALF = AttributeValue(AttributeKind.NUMBER, number=0.5)
NOON = AttributeValue(AttributeKind.TIME, time=datetime(2030, 1, 1, 12, tzinfo=UTC))
SET = EventType.SEARCH_ATTRIBUTES_SET


def patched(world: World, key: int, keeps_absent: bool = False, **patch: AttributeValue) -> Attributed:
    answer = world.do(UpsertSearchAttributes(world.ref(key), patch, keeps_absent))
    assert isinstance(answer, Attributed)
    return answer


def of(world: World, key: int) -> dict[str, AttributeValue]:
    return world.store.attributes.of(key)


def test_a_patch_touches_what_it_names() -> None:
    """Others stay; what is absent goes; and history tells of it."""
    world = World()
    key = world.start(search_attributes={"env": PROD, "score": HALF})
    answer = patched(world, key, env=STAGING, score=ABSENT, noon=NOON)
    assert answer == Attributed(world.run(key).run_id, True, {"env": STAGING, "noon": NOON})
    assert of(world, key) == answer.attributes
    assert world.events(key)[-1].payload == b'{"env": "staging", "score": null, "noon": "2030-01-01T12:00:00+00:00"}'
    assert world.happened(key) == [EventType.RUN_STARTED, SET]


def test_what_changes_nothing_leaves_no_trace() -> None:
    world = World()
    key = world.start(search_attributes={"env": PROD})
    before = world.run(key)
    assert not patched(world, key, env=PROD, other=ABSENT).changed
    assert world.run(key) == before
    assert world.write is None


def test_absent_values_may_be_kept() -> None:
    world = World()
    key = world.start(search_attributes={"env": PROD})
    assert patched(world, key, keeps_absent=True, env=ABSENT).attributes == {"env": ABSENT}
    assert of(world, key) == {"env": ABSENT}


def test_two_patches_of_one_batch_are_both_there() -> None:
    world = World()
    key = world.start()
    world.batch(*(UpsertSearchAttributes(world.ref(key), {name: PROD}) for name in "abc"))
    assert of(world, key) == {"a": PROD, "b": PROD, "c": PROD}
    assert world.store.attributes.looks == 1


def test_more_than_a_run_may_have_is_refused() -> None:
    world = World(Limits(search_attributes=2, search_attribute_bytes=20))
    key = world.start(search_attributes={"a": PROD})
    with pytest.raises(errors.LimitExceeded) as refused:
        patched(world, key, b=PROD, c=PROD)
    assert (refused.value.limit, refused.value.value, refused.value.maximum) == ("search_attributes", 3, 2)
    with pytest.raises(errors.LimitExceeded, match="search_attribute_bytes is 20, and this would be 22"):
        patched(world, key, b=AttributeValue(AttributeKind.TEXT, "x" * 16))
    assert of(world, key) == {"a": PROD}
    patched(world, key, a=ABSENT, b=AttributeValue(AttributeKind.TEXT, "x" * 19))


def test_an_ended_run_keeps_them_and_takes_patches() -> None:
    """Under the lock of its row: who does not get it comes again."""
    world = World()
    key = world.start(search_attributes={"env": PROD})
    world.do(TerminateRun(world.ref(key), "test"))
    closed = world.closed(key)
    order = UpsertSearchAttributes(world.ref(key), {"score": HALF})
    world.store.attributes.busy.add(key)
    assert world.batch(order) == [HELD]
    assert world.write is None
    world.store.attributes.busy.clear()
    assert world.do(order).changed
    assert of(world, key) == {"env": PROD, "score": HALF}
    assert world.closed(key) == closed


def ended_by(world: World, code: Code, end: End) -> int:
    code.end(end)
    return max((*world.store.runs, *world.store.closed_runs))


ON = End(Phase.COMPLETED, successor=Successor(NULL))


def test_they_go_along_with_continue_as_new() -> None:
    """All that the run has by then, also what it got while it was closed."""
    world = World()
    key = world.start(workflow_id="w", search_attributes={"env": PROD})
    code = Code(world, key)
    patched(world, key, score=HALF)
    new = ended_by(world, code, ON)
    assert new != key
    assert of(world, new) == of(world, key) == {"env": PROD, "score": HALF}
    assert unpack_details(world.run(new).details).attributed


def test_they_go_along_from_a_run_that_was_patched_while_it_was_closed() -> None:
    world = World()
    key = world.start(workflow_id="w")
    Code(world, key).end(End(Phase.FAILED, failure=Failure("no")))
    patched(world, key, env=PROD)
    world.do(RetryRun(world.ref(key), (), ""))
    new = ended_by(world, Code(world, key), ON)
    assert of(world, new) == {"env": PROD}


def test_runs_without_them_cost_nothing() -> None:
    world = World()
    key = world.start(workflow_id="w")
    ended_by(world, Code(world, key), ON)
    assert world.store.attributes.looks == 0


def test_a_retry_keeps_them() -> None:
    world = World()
    policy = RetryPolicy(initial_seconds=0.0, maximum_attempts=2)
    key = world.start(search_attributes={"env": PROD}, details=RunDetails(retry=policy))
    Code(world, key).end(End(Phase.FAILED, failure=Failure("no")))
    assert EventType.RUN_ATTEMPT_FAILED in world.happened(key)
    patched(world, key, score=HALF)
    assert of(world, key) == {"env": PROD, "score": HALF}


def test_code_sets_them_as_a_step() -> None:
    """Recorded with what it set, over as it is recorded, and nothing for the run to wait for."""
    world = World()
    key = world.start(search_attributes={"env": PROD, "old": HALF})
    code = Code(world, key)
    ordinal = code.run("attributes", SetAttributes({"env": STAGING, "done": flag(True), "old": ABSENT}))
    step = world.ended(key, ordinal)
    assert (step.state, world.events(key)[step.end_event - 1].payload) == (
        StepState.COMPLETED,
        b'{"env": "staging", "done": true, "old": null}',
    )
    assert of(world, key) == {"env": STAGING, "done": flag(True)}
    code.end(COMPLETED)
    assert world.closed(key).phase == Phase.COMPLETED


def test_too_many_fail_the_step_and_not_the_run() -> None:
    world = World(Limits(search_attributes=2))
    key = world.start(search_attributes={"env": PROD})
    code = Code(world, key)
    first, second = code.run("attributes", SetAttributes({"b": PROD, "c": PROD})), code.run("w", NewWait("go"))
    assert world.ended(key, first).state == StepState.FAILED
    assert of(world, key) == {"env": PROD}
    assert world.step(key, second).name == "w"
