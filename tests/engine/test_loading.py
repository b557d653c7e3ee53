"""What a batch reads: no more than its commands need."""

from __future__ import annotations

from typing import Any

from msgspec.structs import astuple
from tests.engine.code import Code
from tests.engine.world import World

from stepwell_server.engine.reported import NewTimer
from stepwell_server.store import batch_reads


class Reader:
    """A connection that has one open step, and remembers what was asked for among the ended ones."""

    def __init__(self, row: tuple[Any, ...]) -> None:
        self.row = row
        self.asked: dict[str, list[tuple[Any, ...]]] = {}

    async def fetch(self, statement: Any, *columns: Any) -> list[Any]:
        self.asked[statement.name] = list(zip(*columns, strict=True))
        return [self.row] if "closed" not in statement.name else []


async def test_one_ended_step_does_not_drag_the_open_ones_along() -> None:
    """Ended steps are found among all that a run ever had: what is open is not looked for there."""
    world = World()
    key = world.start()
    Code(world, key).run("t", NewTimer(5))
    step = world.step(key, 1)
    reader = Reader(astuple(step))
    await batch_reads.read_steps(reader, [(key, 1), (key, 2)])  # type: ignore[arg-type] # all that is needed of one
    assert reader.asked["read_closed_steps"] == [(key, 2)]
    wanted = [(key, *step.identity), (key, "", "other", 0, "")]
    await batch_reads.read_steps_named(reader, wanted)  # type: ignore[arg-type]
    assert reader.asked["read_closed_steps_named"] == [wanted[1]]
