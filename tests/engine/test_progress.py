"""Progress: recorded once, all or nothing, and told again to whoever missed the answer."""

from __future__ import annotations

import pytest
from tests.engine.code import Code, local
from tests.engine.world import World

from stepwell_server import errors
from stepwell_server.engine.progress import ProgressAnswer
from stepwell_server.engine.reported import NewChild, NewTimer, NewWait
from stepwell_server.engine.signals import SignalRun
from stepwell_server.engine.timers import FireStep
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.payloads import NULL


def test_a_repeat_tells_what_has_ended_meanwhile() -> None:
    """Who missed the answer hears from the repeat which of its steps ended; else the code would wait for ever."""
    world = World()
    key = world.start()
    world.do(SignalRun(world.ref(key), "go", NULL))
    code = Code(world, key)
    message = code.message(
        code.call("w", NewWait("go")), code.call("t", NewTimer(5)), code.call("l", local()), waiting=True, resident=True
    )
    first = world.do(message)
    assert [each.step.ordinal for each in first.ended] == [1]
    world.advance(6)
    world.do(FireStep(world.ref(key), 2))
    again = world.do(message)
    assert isinstance(again, ProgressAnswer)
    assert (again.duplicate, again.ordinals) == (True, [1, 2, 3])
    assert [each.step.ordinal for each in again.ended] == [1, 2]
    world.check()


def test_a_repeat_is_looked_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recognising many steps costs one round of reading, not one each."""
    world = World()
    key = world.start()
    code = Code(world, key)
    message = code.message(*(code.call(f"t{n}", NewTimer(5)) for n in range(50)), waiting=True, resident=True)
    world.do(message)
    rounds: list[Missing] = []
    read = world.store.read_steps_named

    async def counted(connection: object, wanted: object) -> object:
        rounds.append(Missing())
        return await read(connection, wanted)  # type: ignore[arg-type] # passed on as it came

    monkeypatch.setattr(world.store, "read_steps_named", counted)
    assert world.do(message).duplicate
    assert len(rounds) == 1


def test_children_with_names_cost_one_look_and_one_key_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A progress of many named children asks for their names together, and takes no more run keys than children."""
    world = World()
    key = world.start()
    code = Code(world, key)
    looks: list[int] = []
    find = world.store.find_workflow_ids

    async def counted(connection: object, wanted: object) -> object:
        looks.append(1)
        return await find(connection, wanted)  # type: ignore[arg-type] # passed on as it came

    monkeypatch.setattr(world.store, "find_workflow_ids", counted)
    code.send(*(code.call("c", NewChild("flow", workflow_id=f"child-{n}")) for n in range(20)), waiting=True)
    assert len(looks) == 1
    assert sorted(world.store.runs) == list(range(1, 22))


@pytest.mark.parametrize("key", ["", "mine"])
def test_one_message_names_no_step_twice(key: str) -> None:
    """Two steps of one identity are refused by the decision: left to the database they would fail the whole batch."""
    world = World()
    run = world.start()
    code = Code(world, run)
    step = code.call("a", NewTimer(5), key=key)
    with pytest.raises(errors.InvalidField):
        world.do(code.message(step, step, waiting=True))
    assert world.run(run).last_step == 0


@pytest.mark.parametrize("ended", [True, False])
def test_a_key_is_used_once(*, ended: bool) -> None:
    """A caller's key that a recorded step bears is refused, whether that step is open or has ended."""
    world = World()
    run = world.start()
    code = Code(world, run)
    code.send(code.call("a", local() if ended else NewTimer(5), key="mine"))
    with pytest.raises(errors.InvalidField):
        code.send(code.call("a", NewTimer(5), key="mine"))
    assert world.run(run).last_step == 1
