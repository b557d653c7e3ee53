"""Who gets which task: priority, then age, through the table; a fresh task goes straight to a waiting worker."""

from __future__ import annotations

import pytest
from tests.stream.code import Code, scheduled
from tests.stream.kit import ACTIVITY, RUN, Replica, capacity, replica
from tests.stream.wire import wire


async def test_priority_goes_first_and_then_age(one: Replica) -> None:
    wanted = [(place, 9 - place % 3) for place in range(9)]
    await scheduled(one, fields=[{"priority": priority} for _, priority in wanted])
    order = [place + 1 for place, _ in sorted(wanted, key=lambda each: (-each[1], each[0]))]
    async with wire(one, capacity=capacity(activities=1)) as stream:
        seen = []
        for _ in wanted:
            task = await stream.task(ACTIVITY)
            seen.append(task.step_ordinal)
            await stream.complete(task)
    assert seen == order


async def test_the_order_holds_across_types(one: Replica) -> None:
    fields = [{"type": "slow" if place % 2 else "act", "priority": place} for place in range(8)]
    await scheduled(one, fields=fields)
    async with wire(one, activity_types=["act", "slow"], capacity=capacity(activities=1)) as stream:
        seen = []
        for _ in fields:
            task = await stream.task(ACTIVITY)
            seen.append(task.step_ordinal)
            await stream.complete(task)
    assert seen == [8, 7, 6, 5, 4, 3, 2, 1]


async def test_a_worker_that_lacks_a_type_blocks_nobody(one: Replica) -> None:
    await scheduled(one, fields=[{"type": "other", "priority": 9}] * 3 + [{"priority": 1}])
    async with wire(one, "narrow", capacity=capacity(activities=5)) as narrow:
        assert (await narrow.task(ACTIVITY)).type == "act"
        async with wire(one, "other", activity_types=["other"], capacity=capacity(activities=5)) as other:
            assert [(await other.task(ACTIVITY)).type for _ in range(3)] == ["other"] * 3
        assert not narrow.got.get("assigns")


async def test_queues_take_turns(one: Replica) -> None:
    """A worker of two queues with one place serves both, though one of them is never empty."""
    await scheduled(one, fields=[{"task_queue": "p"}] * 6 + [{"task_queue": "q"}] * 2)
    async with wire(one, task_queues=["p", "q"], capacity=capacity(activities=1)) as stream:
        seen = []
        for _ in range(6):
            task = await stream.task(ACTIVITY)
            seen.append(task.task_queue)
            await stream.complete(task)
    assert seen.count("q") == 2


async def test_a_fresh_task_goes_straight_to_a_waiting_worker(database_url: str) -> None:
    """It never waits in the table: with a poll far away nothing else could bring it."""
    async with (
        replica(database_url, dispatch_poll_seconds=600.0) as one,
        wire(one, capacity=capacity(runs=1, activities=1)) as stream,
    ):
        await stream.settled()
        run_id = await one.start()
        code = Code(stream, await stream.task(RUN))
        assert code.task.run_id == run_id
        assert await one.waiting() == 0
        await code.tell(code.activity())
        await stream.task(ACTIVITY)
        assert await one.waiting() == 0


@pytest.mark.parametrize("type_", ["act", "slow"])
async def test_a_fresh_task_does_not_pass_an_older_one(
    one: Replica, monkeypatch: pytest.MonkeyPatch, type_: str
) -> None:
    """Nor one of another type, where one worker does both."""
    await scheduled(one, fields=[{"type": type_, "priority": 9}])
    matcher = one.service.dispatcher.matcher
    async with (
        wire(one, "runs", task_queues=["runs"], capacity=capacity(runs=1)) as runs,
        wire(one, "both", activity_types=["act", "slow"]) as both,
    ):
        await one.start(queue="runs")
        code = Code(runs, await runs.task(RUN))
        # It has a place from here on, and the pump has not looked yet.
        wake = matcher._wake.set
        monkeypatch.setattr(matcher._wake, "set", lambda: None)
        await both.say(capacity=capacity(activities=1))
        await both.settled()
        (waiting,) = (types for key, types in matcher._backlog.items() if key[1:] == ("q", ACTIVITY))
        for other in {"act", "slow"} - {type_}:
            del waiting[other, ""]
        await code.tell(code.activity(task_queue="q", priority=0))
        monkeypatch.undo()
        wake()
        assert (await both.task(ACTIVITY)).type == type_
        assert len(both.working) == 1


async def test_workers_take_turns(one: Replica) -> None:
    async with (
        wire(one, "first", capacity=capacity(runs=10)) as first,
        wire(one, "second", capacity=capacity(runs=10)) as second,
    ):
        await first.settled()
        await second.settled()
        for _ in range(6):
            await one.start()
        for _ in range(3):
            await first.task(RUN)
            await second.task(RUN)
