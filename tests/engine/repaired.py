"""Runs whose record is repaired: the command, and its parts in short."""

from __future__ import annotations

from typing import Any

from tests.engine.world import World

from stepwell_server.engine.mending import StepName
from stepwell_server.engine.repairing import Repaired, RepairRun
from stepwell_server.engine.repairs import Accept, Chosen, Rename, Repair, Skip

ACCEPT = Accept()


def chosen(step: int | str | None, kind: int = 0, **name: Any) -> Chosen:
    """A step by its ordinal or name, or with `every` all of a name."""
    if isinstance(step, int):
        return Chosen(StepName(step), "", kind)
    if step is not None:
        return Chosen(StepName(0, name=step, **name), "", kind)
    return Chosen(None, name["every"], kind)


def rename(step: int | str | None, to: str = "", fingerprint: bytes | None = None, **more: Any) -> Rename:
    return Rename(chosen(step, **more), to, fingerprint)


def skip(step: int | str | None, **more: Any) -> Skip:
    return Skip(chosen(step, **more))


def repair(world: World, key: int, *repairs: Repair, reason: str = "") -> RepairRun:
    return RepairRun(world.ref(key), repairs, reason)


def do(world: World, key: int, *repairs: Repair, reason: str = "") -> Repaired:
    answer = world.do(repair(world, key, *repairs, reason=reason))
    assert isinstance(answer, Repaired)
    world.check()
    return answer
