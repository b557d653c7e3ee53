"""Races in the record: what goes with a winner that goes, and what a race's branches got past."""

from __future__ import annotations

import pytest
from tests.engine.code import Code, activity, json, local
from tests.engine.mended import do, retry, rewind, steps_of
from tests.engine.world import World

from stepwell_server.engine.cuts import Lines, failed
from stepwell_server.engine.reported import Checkpoint, End, NewStep, NewTimer, WonRace
from stepwell_server.model.payloads import NULL, Failure
from stepwell_server.model.races import LOST, WINNER
from stepwell_server.model.runs import Phase
from stepwell_server.model.steps import Kind, StepState

BROKEN = Checkpoint(NULL, Failure("no"))
FAILED = End(Phase.FAILED, failure=Failure("no"))
# A branch and a name for each step, in the order of their recording; a name that ends in ! has failed, one that ends in
# ~ was given up. `race 1 2` is the marker of the race that begins with branch 1 and was won by 2, `lost 1/2` that of a
# loss of branch 1/2.
Record = list[tuple[str, str]]


def won(code: Code, scope: str, first: int, winner: int) -> NewStep:
    return code.call(WINNER, WonRace(winner), scope, str(first), kind=Kind.MARKER)


def lost(code: Code, scope: str, path: str, place: str = "wait") -> NewStep:
    return code.call(LOST, local(f'"{place}"'), scope, path, kind=Kind.MARKER)


def step(code: Code, scope: str, name: str) -> NewStep:
    what, *more = name.split()
    if what == "race":
        return won(code, scope, *map(int, more))
    if what == "lost":
        return lost(code, scope, *more)
    return code.call(name, BROKEN if name.endswith("!") else NewTimer(9) if name.endswith("~") else local(), scope)


def lines(record: Record) -> Lines:
    world = World()
    key = world.start()
    code = Code(world, key)
    given_up = tuple(number for number, (_, name) in enumerate(record, 1) if name.endswith("~"))
    code.send(*(step(code, scope, name) for scope, name in record))
    code.send(cancels=given_up)
    return Lines(steps_of(world, key))


@pytest.mark.parametrize(
    ("record", "ordinals", "gone"),
    [
        # With the winner's step go the marker, what followed, the loss and what was given up for it.
        ([("1", "a!"), ("2", "t~"), ("", "race 1 1"), ("2", "lost 2"), ("", "b")], [1], [1, 2, 3, 4, 5]),
        # A loser's step that had ended stays, only the loss goes, and the clean-up after it.
        ([("1", "a!"), ("2", "t"), ("", "race 1 1"), ("2", "lost 2"), ("2", "undo")], [1], [1, 3, 4, 5]),
        # What comes after the race leaves it alone.
        ([("1", "a"), ("2", "t~"), ("", "race 1 1"), ("2", "lost 2"), ("", "b!")], [5], [5]),
        # A race before stays decided.
        (
            [
                *[("1", "a"), ("2", "t~"), ("", "race 1 1"), ("2", "lost 2")],
                *[("3", "b!"), ("4", "u~"), ("", "race 3 3"), ("4", "lost 4")],
            ],
            [5],
            [5, 6, 7, 8],
        ),
        # Each branch of the loser that heard.
        (
            [("1", "a!"), ("2/1", "t~"), ("2/2", "u"), ("", "race 1 1"), ("2/1", "lost 2"), ("2/2", "lost 2")],
            [1],
            [1, 2, 4, 5, 6],
        ),
        # A race inside of the winner that had been decided before stays so; one that goes with its step does not.
        (
            [
                *[("1/1", "a"), ("1/2", "t~"), ("1", "race 1 1"), ("1/2", "lost 1/2"), ("1", "b!")],
                *[("2", "u~"), ("", "race 1 1"), ("2", "lost 2")],
            ],
            [5],
            [5, 6, 7, 8],
        ),
        (
            [
                *[("1/1", "a!"), ("1/2", "t~"), ("1", "race 1 1"), ("1/2", "lost 1/2")],
                *[("2", "u~"), ("", "race 1 1"), ("2", "lost 2")],
            ],
            [1],
            [1, 2, 3, 4, 5, 6, 7],
        ),
        # Another branch beside the race has nothing to do with it.
        (
            [("1/1", "a!"), ("1/2", "t~"), ("1", "race 1 1"), ("1/2", "lost 1/2"), ("2", "b")],
            [1],
            [1, 2, 3, 4],
        ),
    ],
)
def test_what_goes_with_a_step_of_a_race(record: Record, ordinals: list[int], gone: list[int]) -> None:
    found = lines(record)
    assert [step.ordinal for step in found.cut([found.steps[ordinal - 1] for ordinal in ordinals])] == gone


@pytest.mark.parametrize(
    ("record", "found"),
    [
        # That the branch won is not yet what the code made of it.
        ([("1", "a!"), ("2", "t~"), ("", "race 1 1"), ("2", "lost 2")], [1]),
        ([("1", "a!"), ("2", "t~"), ("", "race 1 1"), ("2", "lost 2"), ("", "b")], []),
        ([("1/1", "a!"), ("1", "race 1 1"), ("", "race 1 1")], [1]),
        ([("1/1", "a!"), ("1", "race 1 1"), ("1", "b"), ("", "race 1 1")], []),
        # The code went on without its loser, and without what lost inside of the winner.
        ([("1", "a"), ("2", "b!"), ("", "race 1 1")], []),
        ([("1/1", "a"), ("1/2", "b!"), ("1", "race 1 1"), ("", "race 1 1")], []),
        ([("1", "a!"), ("", "race 3 3")], []),
        # 10 is not inside of 1.
        ([("10", "a!"), ("", "race 1 1")], []),
    ],
)
def test_the_failed_steps_of_a_race_that_the_code_did_not_get_past(record: Record, found: list[int]) -> None:
    assert [step.ordinal for step in failed(lines(record))] == found


def raced(world: World) -> tuple[int, Code]:
    """A run whose race is over: an activity won, a timer lost."""
    key = world.start()
    code = Code(world, key)
    code.send(code.call("a", local(), "1"), code.call("t", NewTimer(60), "2"))
    code.send(won(code, "", 1, 1), lost(code, "2", "2"), cancels=(2,))
    return key, code


def test_who_won_is_on_record_for_people_too() -> None:
    world = World()
    key, _ = raced(world)
    marker = world.ended(key, 3)
    event = world.events(key)[marker.end_event - 1]
    assert (marker.kind, marker.state) == (Kind.MARKER, StepState.COMPLETED)
    assert event.payload == json("1").body


def test_a_rewind_opens_the_race_again() -> None:
    """Its loser's step lies before the place, and goes too: found given up, it would end the race."""
    world = World()
    key, code = raced(world)
    code.run("b", activity())
    assert do(world, rewind(world, key, 3)) == [2, 3, 4, 5]
    assert [step.name for step in steps_of(world, key)] == ["a"]
    assert {path: scope.order_count for (_, path), scope in world.store.scopes.items()} == {"1": 1, "2": 0}
    world.check()


def test_a_rewind_to_after_the_race_leaves_it_decided() -> None:
    world = World()
    key, code = raced(world)
    code.run("b", activity())
    assert do(world, rewind(world, key, 5)) == [5]
    world.check()


def test_a_retry_sets_the_time_limit_anew() -> None:
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(code.call("a", BROKEN, "1"), code.call("t", NewTimer(60), "2"))
    code.send(won(code, "", 1, 1), lost(code, "2", "2"), cancels=(2,))
    code.end(FAILED)
    assert do(world, retry(world, key)) == [1, 2, 3, 4]
    world.check()
