"""What people are shown when code and record differ: both sides around the first call that does not agree."""

from __future__ import annotations

import pytest
from tests.engine.code import COMPLETED, Code, local
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.order import chain
from stepwell_server.engine.reported import Body, NewTimer, ScopeClaim
from stepwell_server.model.events import EventType, payload_of, unpack_attributes
from stepwell_server.model.order import Difference, MadeCall, unpack_differences
from stepwell_server.model.runs import EMPTY_HASH, unpack_details
from stepwell_server.model.steps import Kind

LOCAL = Kind.LOCAL


def recorded(*names: str) -> tuple[World, int]:
    """A run whose own line has recorded checkpoints of these names."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(*(code.call(name, local()) for name in names))
    return world, key


def replaying(world: World, key: int, *names: str) -> Code:
    """The code after the calls of these names, answered from the record or not."""
    code = Code(world, key, granted=True)
    for name in names:
        code.passed(code.call(name, local()))
    return code


def differences(world: World, key: int) -> tuple[Difference, ...]:
    """What the pause holds; the history's line holds the same."""
    details = unpack_details(world.run(key).details)
    event = world.events(key)[details.pause_event - 1]
    assert event.type == EventType.RUN_PAUSED
    return unpack_differences(payload_of(event.payload_kind, event.payload, unpack_attributes(event.attributes)))


def names(found: Difference) -> tuple[list[str], list[str]]:
    return [call.name for call in found.recorded], [call.name for call in found.made]


def trip(code: Code, *calls: tuple[str, Body], **fields: object) -> str:
    with pytest.raises(errors.StepOrderChanged) as tripped:
        code.send(*(code.call(name, body) for name, body in calls), **fields)
    return str(tripped.value)


def test_a_renamed_call_is_found_where_it_stands() -> None:
    """The calls before agree by their hash, so the first new one is the first that differs."""
    world, key = recorded(*"abcdefghijklmn")
    text = trip(replaying(world, key, *"abcdef"), ("x", local()), ("h", local()))
    (found,) = differences(world, key)
    assert (found.scope, found.place, found.first, found.recorded_count) == ("", 6, 1, 14)
    assert names(found) == (list("bcdefghijkl"), ["x", "h"])
    assert [call.ordinal for call in found.recorded] == list(range(2, 13))
    assert "after 6 calls LOCAL g, LOCAL h" in text
    assert "got LOCAL x, LOCAL h" in text


def test_new_calls_that_agree_are_passed_over() -> None:
    """A message that begins like the record and then leaves it is shown from where it leaves it."""
    world, key = recorded("a", "b", "c")
    trip(replaying(world, key), ("a", local()), ("b", NewTimer(1)))
    (found,) = differences(world, key)
    assert found.place == 1
    assert found.made == (MadeCall(Kind.TIMER, "b"),)


def test_code_that_ends_early_makes_no_further_call() -> None:
    """The record goes on where the code is done."""
    world, key = recorded("a", "b", "c")
    text = trip(replaying(world, key, "a"), end=COMPLETED)
    (found,) = differences(world, key)
    assert (found.place, names(found)) == (1, (["a", "b", "c"], []))
    assert "got no further call" in text


def test_a_difference_among_replayed_calls_is_told_by_the_worker_or_not_known() -> None:
    """The service knows only the hash of what was replayed: it shows the record, and takes the worker's word."""
    world, key = recorded("a", "b", "c")
    trip(replaying(world, key, "a", "c", "b"), ("d", local()))
    (found,) = differences(world, key)
    assert (found.place, names(found)) == (None, (["a", "b", "c"], ["d"]))

    world, key = recorded("a", "b", "c")
    code = replaying(world, key, "a", "c", "b")
    message = code.message(code.call("d", local()))
    told = ScopeClaim("", 3, message.scopes[0].hash, closed=False, place=1, made=(MadeCall(LOCAL, "c"),))
    message.scopes[0] = told
    with pytest.raises(errors.StepOrderChanged):
        world.do(message)
    (found,) = differences(world, key)
    assert (found.place, names(found)) == (1, (["a", "b", "c"], ["c"]))


def test_branches_that_were_not_entered_are_shown_whole() -> None:
    """A closed branch without calls stands for one that the code does not have any more."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(code.call("a", local()), code.call("b", local(), "1"), code.call("c", local(), "2/1"))
    message = code.message(end=COMPLETED)
    message.scopes.extend(ScopeClaim(path, 0, EMPTY_HASH, closed=True) for path in ("1", "2/1"))
    with pytest.raises(errors.StepOrderChanged):
        world.do(message)
    found = differences(world, key)
    assert [(each.scope, each.place, names(each)) for each in found] == [("1", 0, (["b"], [])), ("2/1", 0, (["c"], []))]


def test_a_fingerprint_counts_where_the_names_agree() -> None:
    """A call that differs in its fingerprint alone is the first that differs."""
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(*(code.call(name, local(), fingerprint=b"1") for name in "ab"))
    code = replaying(world, key)
    code.hashes[""], code.counts[""] = chain(EMPTY_HASH, LOCAL, "a", b"1"), 1
    with pytest.raises(errors.StepOrderChanged):
        code.send(code.call("b", local(), fingerprint=b"2"))
    (found,) = differences(world, key)
    assert (found.place, names(found)) == (1, (["a", "b"], ["b"]))
