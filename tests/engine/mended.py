"""Runs that are retried and rewound: the commands, and code that goes over what is left of the record."""

from __future__ import annotations

from typing import Any

from tests.engine.code import Code
from tests.engine.draws import BY_KIND
from tests.engine.world import World

from stepwell_server.engine.mending import Mended, RetryRun, RewindRun, StepName
from stepwell_server.model.steps import ClosedStep, Kind, Step


def retry(world: World, key: int, *ordinals: int) -> RetryRun:
    return RetryRun(world.ref(key), ordinals, "mended")


def rewind(world: World, run: int, ordinal: int = 0, **name: Any) -> RewindRun:
    step = StepName(ordinal, **name)
    return RewindRun(world.ref(run), step, "mended")


def do(world: World, order: RetryRun | RewindRun) -> list[int]:
    """Commits it, and answers which steps went."""
    answer = world.do(order)
    assert isinstance(answer, Mended)
    assert answer.removed_count == len(answer.removed)
    return [step.ordinal for step in answer.removed]


def steps_of(world: World, key: int) -> list[Step | ClosedStep]:
    """The record, by ordinal."""
    every: list[Step | ClosedStep] = [*world.store.steps.values(), *world.store.closed_steps.values()]
    return sorted((step for step in every if step.run_key == key), key=lambda step: step.ordinal)


def names_of(world: World, key: int) -> list[str]:
    return [step.name for step in steps_of(world, key)]


def replayed(world: World, key: int) -> Code:
    """A new grant, whose code has been answered all that is recorded."""
    code = Code(world, key)
    for step in steps_of(world, key):
        code.passed(
            code.call(step.name, BY_KIND.get(Kind(step.kind), BY_KIND[Kind.LOCAL]), step.scope, kind=Kind(step.kind))
        )
    return code
