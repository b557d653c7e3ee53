"""Updates and what is published: recorded with the rest of a progress, or not at all."""

from __future__ import annotations

import pytest
from tests.engine.code import COMPLETED, Code, activity, json, local
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.grants import ReturnTask
from stepwell_server.engine.limits import Limits
from stepwell_server.engine.order import chain
from stepwell_server.engine.published import MOST_NAMES
from stepwell_server.engine.reported import NewWait
from stepwell_server.engine.run_calls import CallRun
from stepwell_server.engine.signals import SignalRun
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import NULL, Failure, unpack_payload
from stepwell_server.model.run_calls import Rejection, acceptance_of, outcome_of
from stepwell_server.model.runs import EMPTY_HASH, Phase, unpack_details
from stepwell_server.model.steps import Kind, unpack_step_details


def running() -> tuple[World, Code]:
    world = World()
    return world, Code(world, world.start())


def test_acceptance_and_outcome_are_markers_that_are_found_by_the_update_s_id() -> None:
    world, code = running()
    code.send(code.accept("u1", "add", "5"), code.outcome("u1", "6"))
    accepted, outcome = world.ended(code.key, 1), world.ended(code.key, 2)
    assert (accepted.identity, outcome.identity) == (acceptance_of("u1"), outcome_of("u1"))
    assert {accepted.kind, outcome.kind} == {Kind.MARKER}
    details = unpack_step_details(accepted.details)
    assert (details.update_name, details.place) == ("add", 3)
    assert world.happened(code.key)[-2:] == [EventType.UPDATE_ACCEPTED, EventType.UPDATE_COMPLETED]
    assert [event.payload for event in world.events(code.key)[-2:]] == [b"5", b"6"]
    world.check()


def test_their_scope_is_ordered_as_every_other() -> None:
    world, code = running()
    code.send(code.accept("u1"), code.call("a", activity(), scope="0/1"), code.accept("u2"), code.outcome("u1"))
    scope = world.store.scopes[code.key, "0"]
    hashed = EMPTY_HASH
    for name in ("__update", "__update", "__outcome"):
        hashed = chain(hashed, Kind.MARKER, name)
    assert (scope.order_count, scope.order_hash) == (3, hashed)
    assert world.store.scopes[code.key, "0/1"].order_count == 1
    assert world.run(code.key).order_count == 0
    world.check()


def test_a_repeated_progress_is_recognised_by_its_updates() -> None:
    world, code = running()
    message = code.message(code.accept("u1"), code.outcome("u1"))
    world.do(message)
    again = world.do(message)
    assert (again.duplicate, again.ordinals) == (True, [1, 2])


def test_an_update_is_accepted_once() -> None:
    """However often it was told: a second acceptance is a fault of the worker."""
    _world, code = running()
    code.send(code.accept("u1"))
    with pytest.raises(errors.InvalidField, match="again"):
        code.send(code.accept("u1"))
    with pytest.raises(errors.InvalidField, match="again"):
        code.send(code.accept("u1", name="other"))
    code.send(code.accept("u2"))


def test_an_outcome_needs_its_acceptance() -> None:
    world, code = running()
    with pytest.raises(errors.InvalidField, match="not accepted"):
        code.send(code.outcome("u1"))
    code.send(code.accept("u1"))
    code.send(code.outcome("u1"))
    world.check()


def test_rejections_are_told_and_nothing_is_recorded() -> None:
    world, code = running()
    events = len(world.events(code.key))
    rejection = Rejection("u1", Failure("no", "ValueError"))
    code.send(rejections=[rejection], waiting=True, resident=True)
    assert world.last is not None
    assert world.last.subjects.runs[code.key].news.rejections == [rejection]
    assert len(world.events(code.key)) == events
    assert world.run(code.key).last_step == 0


def test_what_a_refused_progress_told_is_told_to_nobody() -> None:
    world = World(Limits(open_steps=0))
    code = Code(world, world.start())
    with pytest.raises(errors.LimitExceeded):
        code.send(code.accept("u1"), code.call("a", activity()), rejections=[Rejection("u3", Failure("no"))])
    assert world.last is not None
    news = world.last.subjects.runs[code.key].news
    assert not news.updates
    assert not news.rejections
    code.token += 1
    with pytest.raises(errors.LeaseLost):
        code.send(rejections=[Rejection("u3", Failure("no"))], published={"p": NULL})
    assert not world.last.subjects.runs[code.key].news.rejections
    assert not world.store.published


def test_a_run_that_waits_runs_while_it_applies_an_update() -> None:
    world, code = running()
    code.run("w", NewWait("go"), waiting=True, resident=True)
    assert world.run(code.key).phase == Phase.SUSPENDED
    code.send(code.accept("u1"), code.call("a", activity(), scope="0/1"))
    assert (world.run(code.key).phase, world.run(code.key).suspend_time) == (Phase.RUNNING, None)
    code.send(waiting=True, resident=True)
    assert world.run(code.key).phase == Phase.SUSPENDED


# --- runs that are called ---------------------------------------------------------------------------------------------


def test_a_run_that_nobody_holds_becomes_due_and_knows_that_it_was_called() -> None:
    world, code = running()
    code.run("w", NewWait("go"), waiting=True)
    assert not world.is_queued(code.key)
    world.batch(CallRun(world.ref(code.key)), CallRun(world.ref(code.key)))
    assert world.is_queued(code.key)
    grant = world.grant(code.key)
    assert grant is not None
    assert unpack_details(grant.run.details).called
    world.check()


def test_a_run_that_is_held_is_not_hurried() -> None:
    """Its worker is told; until it says otherwise the run waits."""
    world, code = running()
    code.run("w", NewWait("go"), waiting=True, resident=True)
    world.do(CallRun(world.ref(code.key)))
    assert world.run(code.key).phase == Phase.SUSPENDED
    assert not world.is_queued(code.key)


def test_a_worker_that_keeps_nothing_gets_a_called_run_again() -> None:
    """It was called while a worker without a stream was at it, and must be claimed once more."""
    world, code = running()
    world.do(CallRun(world.ref(code.key)))
    assert not world.is_queued(code.key)
    code.run("w", NewWait("go"), waiting=True)
    assert world.is_queued(code.key)


def test_a_delayed_start_is_not_hurried() -> None:
    world = World()
    key = world.start(delay_seconds=60)
    world.do(CallRun(world.ref(key)))
    assert not world.is_queued(key)
    assert unpack_details(world.run(key).details).called


def test_a_driven_run_is_not_called() -> None:
    world = World()
    key = world.start(driven=True)
    with pytest.raises(errors.RunDriven):
        world.do(CallRun(world.ref(key)))


def test_it_stays_known_that_a_run_was_called() -> None:
    """Its worker may die before it records the update: the next grant looks again."""
    world, code = running()
    world.do(CallRun(world.ref(code.key)))
    world.do(ReturnTask(world.ref(code.key), 0, code.token, world.session, counts=True, reason="lost"))
    grant = world.grant(code.key)
    assert grant is not None
    assert unpack_details(grant.run.details).called


# --- what is published ------------------------------------------------------------------------------------------------


def test_the_latest_value_of_a_name_is_kept_also_with_the_end() -> None:
    world, code = running()
    code.send(published={"a": json("1"), "b": json("2")})
    world.advance(5)
    code.send(code.call("l", local()), published={"a": json("3")}, end=COMPLETED)
    values = {name: unpack_payload(row.payload).body for (_, name), row in world.store.published.items()}
    assert values == {"a": b"3", "b": b"2"}
    assert world.store.published[code.key, "a"].publish_time == world.now
    assert unpack_details(world.closed(code.key).details).published == ("a", "b")


def test_a_run_publishes_under_so_many_names() -> None:
    world, code = running()
    code.send(published={f"n{number}": NULL for number in range(MOST_NAMES)})
    code.send(published={"n0": json("2")})
    with pytest.raises(errors.LimitExceeded):
        code.send(published={"more": NULL})
    assert len(world.store.published) == MOST_NAMES


def test_a_full_run_takes_no_update_and_still_ends() -> None:
    world = World(Limits(events=2))
    code = Code(world, world.start())
    world.do(SignalRun(world.ref(code.key), "s", NULL))
    with pytest.raises(errors.LimitExceeded):
        code.send(code.accept("u1"))
    code.end()
    world.check()
