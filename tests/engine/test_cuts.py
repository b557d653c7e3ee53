"""Which steps go with those that are done anew: what may have come of them, and nothing else."""

from __future__ import annotations

import pytest
from tests.engine.code import Code, local
from tests.engine.mended import steps_of
from tests.engine.world import World

from stepwell_server.engine.cuts import Lines, cut_short, failed
from stepwell_server.engine.reported import Checkpoint, NewStep
from stepwell_server.model.payloads import NULL, Failure
from stepwell_server.model.run_calls import ACCEPTANCE, OUTCOME, UPDATES
from stepwell_server.model.steps import Kind

BROKEN = Checkpoint(NULL, Failure("no"))
# A branch and a name for each step, in the order of their recording; a name that ends in ! has failed. In branch 0 a
# name is that of an update, accepted, or with a dot come to its outcome.
Record = list[tuple[str, str]]


def step(code: Code, scope: str, name: str) -> NewStep:
    body = BROKEN if name.endswith("!") else local()
    if scope != UPDATES:
        return code.call(name, body, scope)
    update = name.rstrip("!")
    of, key = (OUTCOME, update[:-1]) if update.endswith(".") else (ACCEPTANCE, update)
    return code.call(of, body, scope, key, kind=Kind.MARKER)


def lines(record: Record) -> Lines:
    world = World()
    key = world.start()
    code = Code(world, key)
    code.send(*(step(code, scope, name) for scope, name in record))
    return Lines(steps_of(world, key))


def cut(record: Record, *ordinals: int) -> list[int]:
    found = lines(record)
    return [step.ordinal for step in found.cut([found.steps[ordinal - 1] for ordinal in ordinals])]


@pytest.mark.parametrize(
    ("record", "ordinals", "gone"),
    [
        ([("", "a"), ("", "b!")], [2], [2]),
        # What followed in the branch goes too.
        ([("", "a"), ("", "b!"), ("", "c")], [2], [2, 3]),
        # Other branches stay, whenever they were at work.
        ([("1", "a"), ("2", "b!"), ("3", "c"), ("1", "d")], [2], [2]),
        # What a branch around it did afterwards goes, and the branches that it opened after that.
        ([("", "a"), ("1", "b!"), ("2", "c"), ("", "d"), ("3", "e"), ("3/1", "f")], [2], [2, 4, 5, 6]),
        # Branches opened before stay.
        ([("1", "a"), ("1/1", "b"), ("", "c!"), ("", "d")], [3], [3, 4]),
        # Branches that a branch opened after its step go, whole.
        ([("", "a!"), ("1", "b"), ("1/1", "c"), ("2", "d")], [1], [1, 2, 3, 4]),
        ([("2", "a!"), ("2/1", "b"), ("1", "c")], [1], [1, 2]),
        # Of two in one branch the first counts.
        ([("", "a!"), ("", "b"), ("", "c!")], [3, 1], [1, 2, 3]),
        ([("1", "a!"), ("2", "b!"), ("2", "c"), ("3", "d")], [1, 2], [1, 2, 3]),
        # With a step of an update goes its outcome; the run's own line and other updates stay.
        ([("0", "u"), ("0/1", "a!"), ("0", "v"), ("", "b"), ("0", "u.!"), ("0/2", "c"), ("0", "v.")], [2], [2, 5]),
        ([("0", "u"), ("0/1", "a!"), ("0/1/1", "b"), ("0/1", "c")], [2], [2, 3, 4]),
        ([("0", "u"), ("0/1/1", "a!"), ("0/1", "b"), ("", "c")], [2], [2, 3]),
        ([("0", "u"), ("0", "u.!"), ("0", "v"), ("", "a")], [2], [2]),
        # An update that was accepted while a step was under way stays; one accepted after the line had gone on goes.
        ([("", "a!"), ("0", "u"), ("0/1", "b")], [1], [1]),
        ([("", "a!"), ("0", "u"), ("", "b"), ("0", "v"), ("0/2", "c"), ("0", "u."), ("0", "v.")], [1], [1, 3, 4, 5, 7]),
    ],
)
def test_what_goes_with_a_step(record: Record, ordinals: list[int], gone: list[int]) -> None:
    assert cut(record, *ordinals) == gone


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ([("", "a"), ("", "b!")], [2]),
        ([("1", "a!"), ("2", "b"), ("3", "c!")], [1, 3]),
        # The code went on from these.
        ([("", "a!"), ("", "b")], []),
        ([("", "a!"), ("1", "b")], []),
        ([("1", "a!"), ("2", "b"), ("", "c")], []),
        ([("1/1", "a!"), ("1", "b"), ("2", "c!")], [3]),
        ([("0", "u"), ("0/1", "a!"), ("", "b")], [2]),
        ([("0", "u"), ("0/1", "a!"), ("0", "u.!")], []),
    ],
)
def test_the_failed_steps_that_the_code_did_not_get_past(record: Record, found: list[int]) -> None:
    assert [step.ordinal for step in failed(lines(record))] == found


def test_nothing_was_cut_short_where_nothing_was_open() -> None:
    assert cut_short(lines([("", "a")]), 0) == []
