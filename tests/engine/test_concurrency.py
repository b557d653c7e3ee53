"""Concurrency limits without a database: never more than the limit are at work, and nobody is forgotten."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.engine.code import COMPLETED, Code
from tests.engine.world import MAIN, World

from stepwell_server.engine.admission import AdmitRun, GiveWay
from stepwell_server.engine.committer.opening import HELD
from stepwell_server.engine.committer.orders import Order
from stepwell_server.engine.concurrency import plan
from stepwell_server.engine.mending import RetryRun
from stepwell_server.engine.reported import End, Successor
from stepwell_server.engine.runs import CancelRun, LookAtRun, PauseRun, ResumeRun, TerminateRun
from stepwell_server.model.concurrency import Concurrency, Line, LineView, SlotState, Strategy
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import Phase, RunDetails, unpack_details

LINE = Line(MAIN, "limit", "k")


def limited(world: World, key: str = "k", most: int = 1, strategy: int = Strategy.QUEUE, **fields: Any) -> int:
    details = RunDetails(concurrency=Concurrency("limit", key, most, strategy))
    return world.start(details=details, **fields)


def planned(world: World) -> list[Order]:
    """The commands that a replica would give now."""
    orders: list[Order] = []
    for line in world.store.slots.lines():
        view = world.store.slots.view(line)
        if view is not None:
            admit, give_way = plan(view)
            orders += [GiveWay(world.ref(key), "test") for key in give_way]
            orders += [AdmitRun(world.ref(key), line) for key in admit]
    return orders


def settle(world: World) -> None:
    """Looks at all lines until nothing comes of it."""
    while orders := planned(world):
        world.batch(*orders)


def slot(world: World, key: int) -> SlotState:
    return SlotState(unpack_details(world.run(key).details).slot)


def test_a_run_has_no_task_before_it_has_a_slot() -> None:
    world = World()
    first, second = limited(world), limited(world)
    assert not world.is_queued(first)
    settle(world)
    assert (slot(world, first), slot(world, second)) == (SlotState.HELD, SlotState.AWAITED)
    assert (world.is_queued(first), world.is_queued(second)) == (True, False)
    assert world.happened(first)[-1] == EventType.RUN_ADMITTED
    Code(world, first).end(COMPLETED)
    settle(world)
    assert world.is_queued(second)
    world.check()


def test_two_who_mean_the_same_slot_cannot_both_have_it() -> None:
    """Of two plans made at the same time, in one batch and in two, one gets it; the other run goes on waiting."""
    world = World()
    first, second, third = (limited(world, most=2) for _ in range(3))
    assert world.batch(*(AdmitRun(world.ref(key), LINE) for key in (first, second, third))) == [True, True, False]
    assert world.do(AdmitRun(world.ref(third), LINE)) is False
    assert world.do(AdmitRun(world.ref(second), LINE)) is True
    assert world.happened(second).count(EventType.RUN_ADMITTED) == 1
    assert slot(world, third) == SlotState.AWAITED


def test_a_line_whose_lock_somebody_has_is_left_for_later() -> None:
    world = World()
    key = limited(world)
    world.store.slots.locked.add(LINE)
    assert world.batch(AdmitRun(world.ref(key), LINE)) == [HELD]
    world.store.slots.locked.clear()
    assert world.batch(AdmitRun(world.ref(key), LINE)) == [True]


@pytest.mark.parametrize(
    ("end", "ended"),
    [
        (lambda world, key: Code(world, key).end(COMPLETED), Phase.COMPLETED),
        (lambda world, key: Code(world, key).end(End(Phase.FAILED)), Phase.FAILED),
        (lambda world, key: world.do(CancelRun(world.ref(key), "")), Phase.CANCELLED),
        (lambda world, key: world.do(TerminateRun(world.ref(key), "")), Phase.TERMINATED),
    ],
)
def test_every_end_frees_the_slot_in_its_batch(end: Callable[[World, int], Any], ended: Phase) -> None:
    world = World()
    key = limited(world)
    settle(world)
    end(world, key)
    assert world.closed(key).phase == ended
    assert world.store.slots.rows == {}


def test_who_goes_on_as_new_keeps_its_place() -> None:
    """The slot is the next run's, and it came when the first did: one that came since does not supersede it."""
    world = World()
    key = limited(world, strategy=Strategy.CANCEL_IN_PROGRESS)
    settle(world)
    came = world.store.slots.rows[key].arrive_time
    world.advance(10)
    Code(world, key).end(End(Phase.COMPLETED, successor=Successor(NULL)))
    (row,) = world.store.slots.rows.values()
    assert row.run_key != key
    assert row.arrive_time == came
    assert world.is_queued(row.run_key)


def test_who_is_asked_to_give_way_is_asked_once() -> None:
    """One that is at work is asked to cancel, and keeps its slot until it has ended."""
    world = World()
    key = limited(world, strategy=Strategy.CANCEL_IN_PROGRESS)
    settle(world)
    Code(world, key)
    newer = limited(world, strategy=Strategy.CANCEL_IN_PROGRESS)
    assert world.do(GiveWay(world.ref(key), "newer")) is True
    assert world.do(GiveWay(world.ref(key), "newer")) is False
    assert world.happened(key).count(EventType.RUN_CANCEL_REQUESTED) == 1
    assert slot(world, key) == SlotState.HELD
    assert planned(world) == []
    world.do(TerminateRun(world.ref(key), ""))
    settle(world)
    assert slot(world, newer) == SlotState.HELD


def test_keys_get_slots_in_turn() -> None:
    """After the key that had the last one comes the next, within a key the oldest; who comes later has a turn, too."""
    world = World()
    keys = {limited(world, name, strategy=Strategy.ROUND_ROBIN): name for name in "aaacb"}
    order: list[str] = []
    while keys.keys() & world.store.runs.keys():
        settle(world)
        (key,) = (row.run_key for row in world.store.slots.rows.values() if row.admit_time is not None)
        order.append(keys[key])
        if order == ["a", "b"]:
            keys |= {limited(world, "bb", strategy=Strategy.ROUND_ROBIN): "bb"}
        Code(world, key).end(COMPLETED)
    assert order == ["a", "b", "bb", "c", "a", "a"]


VIEW = LineView(LINE, 2, Strategy.QUEUE, 1, [(5, False), (6, False), (7, True)])


@pytest.mark.parametrize(
    ("strategy", "superseded", "admit", "give_way"),
    [
        (Strategy.QUEUE, [], [5], []),
        (Strategy.CANCEL_NEWEST, [], [5], [6]),
        (Strategy.CANCEL_IN_PROGRESS, [4, 5], [6], [4, 5]),
        (Strategy.CANCEL_IN_PROGRESS, [4, 5, 6], [7], [4, 5, 6]),
    ],
)
def test_who_is_next(strategy: Strategy, superseded: list[int], admit: list[int], give_way: list[int]) -> None:
    view = LineView(LINE, VIEW.maximum_runs, strategy, VIEW.held, VIEW.waiting, superseded)
    assert plan(view) == (admit, give_way)


def test_nobody_is_next_when_the_limit_was_lowered() -> None:
    assert plan(LineView(LINE, 1, Strategy.QUEUE, 3, [(5, False)])) == ([], [])


# --- at random --------------------------------------------------------------------------------------------------------

MOST = {"a": 1, "b": 2, "c": 3, "x": 2, "y": 2}
STRATEGIES = {
    "a": Strategy.QUEUE,
    "b": Strategy.CANCEL_IN_PROGRESS,
    "c": Strategy.CANCEL_NEWEST,
    "x": Strategy.ROUND_ROBIN,
    "y": Strategy.ROUND_ROBIN,
}


def hold_good(world: World) -> None:
    """What is true after each batch."""
    rows = world.store.slots.rows
    for key, run in world.store.runs.items():
        found = SlotState(unpack_details(run.details).slot)
        assert (key in rows) is (found != SlotState.NONE)
        assert found == SlotState.NONE or (rows[key].admit_time is not None) is (found == SlotState.HELD)
        assert not world.is_queued(key) or found == SlotState.HELD
        assert run.session_id is None or found == SlotState.HELD
    assert rows.keys() <= world.store.runs.keys()
    for line in world.store.slots.lines():
        held = [row for row in world.store.slots.of(line) if row.admit_time is not None]
        assert len(held) <= MOST[line.line or "x"]


def step(world: World, draw: random.Random, stale: Sequence[Order]) -> None:
    """Something that happens: to a run, or to the lines, by a plan that may be out of date."""
    open_keys = sorted(world.store.runs)
    chosen = draw.random()
    if chosen < 0.35 or not open_keys:
        name = draw.choice(sorted(MOST))
        limited(world, name, MOST[name], STRATEGIES[name], delay_seconds=draw.choice([None, None, None, 5.0]))
        return
    if chosen < 0.6:
        orders = [*planned(world), *stale]
        draw.shuffle(orders)
        world.batch(*orders[: draw.randint(1, 6)])
        return
    key = draw.choice(open_keys)
    if chosen < 0.75 and world.is_queued(key):
        code = Code(world, key)
        successor = Successor(NULL) if draw.random() < 0.3 else None
        code.end(End(Phase.COMPLETED, successor=successor) if successor else COMPLETED)
        return
    verbs: list[Callable[[Any], Order]] = [
        lambda ref: CancelRun(ref, ""),
        lambda ref: TerminateRun(ref, ""),
        lambda ref: PauseRun(ref, "test"),
        lambda ref: ResumeRun(ref, accept_order=False),
    ]
    world.batch(draw.choice(verbs)(world.ref(key)))
    ended = sorted(key for key, run in world.store.closed_runs.items() if run.phase == Phase.TERMINATED)
    if ended and draw.random() < 0.3:
        world.batch(RetryRun(world.ref(draw.choice(ended)), (), ""))


@pytest.mark.parametrize("seed", range(40))
def test_never_more_than_the_limit_and_none_forgotten(seed: int) -> None:
    """Whatever happens, in whatever order: in the end all have ended, since each got its slot or was cancelled."""
    draw, world = random.Random(seed), World()
    stale: list[Order] = []
    for _ in range(60):
        step(world, draw, stale)
        hold_good(world)
        if draw.random() < 0.3:
            stale = planned(world)
        world.advance(draw.choice([0.0, 0.0, 1.0]))
    finish(world)
    assert world.store.runs == {}
    assert world.store.slots.rows == {}


def finish(world: World) -> None:
    """Lets everything go on to its end."""
    world.advance(100)
    for _ in range(1000):
        for key in sorted(world.store.runs):
            world.batch(ResumeRun(world.ref(key), accept_order=False), LookAtRun(world.ref(key)))
        settle(world)
        hold_good(world)
        ready = [key for key in sorted(world.store.runs) if world.is_queued(key)]
        if not ready:
            return
        for key in ready:
            if key in world.store.runs:
                Code(world, key).end(COMPLETED)
