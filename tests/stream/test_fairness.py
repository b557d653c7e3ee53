"""Keys that take turns in a queue, as workers see them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from tests.service import refusal
from tests.stream.calls import Caller
from tests.stream.code import Code
from tests.stream.kit import ACTIVITY, RUN, Replica, capacity, replica, until
from tests.stream.test_aging import update
from tests.stream.test_task_queues import shown
from tests.stream.wire import wire

from stepwell.v1 import runs_pb2, schedules_pb2, workers_pb2
from stepwell.v1.schedules_pb2_grpc import ScheduleServiceStub
from stepwell.v1.task_queues_pb2 import Fairness, RateLimit


async def fair(one: Replica, **weights: int) -> Any:
    return await update(one, "fairness", fairness=Fairness(weights=weights))


async def jobs(one: Replica, key: str, count: int, **fields: Any) -> dict[str, str]:
    return {await one.start_job(fairness_key=key, **fields): key for _ in range(count)}


async def claimed(one: Replica, names: dict[str, str], count: int, most: int = 1) -> list[str]:
    """The keys of jobs in the order in which they are claimed."""
    caller = await Caller.of(one)
    seen: list[str] = []
    while len(seen) < count:
        seen += [names[task.job_id] for task in await caller.claim(wait=0, max_tasks=min(most, count - len(seen)))]
    return seen


async def test_a_loud_key_does_not_hold_up_a_quiet_one(one: Replica) -> None:
    await fair(one)
    names = await jobs(one, "loud", 20) | await jobs(one, "quiet", 2) | await jobs(one, "", 2)
    seen = await claimed(one, names, 9)
    assert Counter(seen[:6]) == {"loud": 2, "quiet": 2, "": 2}
    assert seen[6:] == ["loud"] * 3


@pytest.mark.parametrize("most", [1, 3, 8])
async def test_keys_share_by_weight_whatever_the_size_of_claims(one: Replica, most: int) -> None:
    await fair(one, a=3)
    names = await jobs(one, "a", 10) | await jobs(one, "b", 10) | await jobs(one, "c", 10)
    assert Counter(await claimed(one, names, 15, most)) == {"a": 9, "b": 3, "c": 3}


async def test_claims_of_one_batch_take_nothing_twice_and_leave_nothing(one: Replica) -> None:
    """Two workers with room for all: whatever waits is given, though keys have less than their share."""
    await fair(one)
    names = await jobs(one, "a", 11) | await jobs(one, "b", 2) | await jobs(one, "c", 1)
    async with (
        wire(one, "x", capacity=capacity(activities=9)) as x,
        wire(one, "y", capacity=capacity(activities=9)) as y,
    ):
        await until(lambda: len(x.working) + len(y.working) == 14)
        held = [task.job_id for task in (*x.working.values(), *y.working.values())]
        assert sorted(held) == sorted(names)


async def test_within_a_key_priority_goes_first_and_then_age(one: Replica) -> None:
    await fair(one)
    names: dict[str, str] = {}
    for priority in (4, 9, 4):
        names |= {await one.start_job(fairness_key="a", priority=priority): f"a{priority}"}
    assert await claimed(one, names, 3) == ["a9", "a4", "a4"]


async def test_activities_and_children_have_their_runs_key(one: Replica) -> None:
    run_id = await one.start(fairness_key="a")
    async with wire(one, capacity=capacity(runs=5)) as stream:
        code = Code(stream, await stream.task(RUN))
        child = workers_pb2.ChildStep(type="other")
        await code.wait(code.activity(), code.step("child", child=child))
        async with one.service.dispatcher.reader.connection() as connection:
            found = await connection.raw.fetch("SELECT fairness_key, kind FROM tasks ORDER BY kind")
        assert [tuple(row) for row in found] == [("a", RUN), ("a", ACTIVITY)]
    assert (await one.run(run_id)).fairness_key == "a"


async def test_what_waited_before_takes_its_turn_too(one: Replica) -> None:
    """Without a key, it is of the empty one from then on."""
    names = await jobs(one, "", 3) | await jobs(one, "a", 3)
    await fair(one)
    assert await claimed(one, names, 4) == ["", "a", "", "a"]


async def test_without_turns_a_key_counts_for_nothing(one: Replica) -> None:
    await fair(one)
    names = await jobs(one, "b", 2) | await jobs(one, "", 1) | await jobs(one, "a", 1)
    settings = await update(one, "fairness")
    assert not settings.HasField("fairness")
    assert await claimed(one, names, 4) == ["b", "b", "", "a"]


async def test_turns_keep_to_the_rate_limit(one: Replica) -> None:
    await fair(one)
    await update(one, "rate_limit", rate_limit=RateLimit(per_second=0.0001, burst=4))
    names = await jobs(one, "a", 5) | await jobs(one, "b", 5)
    caller = await Caller.of(one)
    tasks = await caller.claim(wait=0, max_tasks=9)
    assert Counter(names[task.job_id] for task in tasks) == {"a": 2, "b": 2}
    assert await caller.claim(wait=0, max_tasks=9) == []


async def test_each_replica_goes_its_own_round(database_url: str) -> None:
    async with replica(database_url) as first, replica(database_url) as second:
        await fair(first)
        await until(lambda: second.service.dispatcher.queues.any_fair)
        names = await jobs(first, "a", 6) | await jobs(first, "b", 6)
        seen = [await claimed(each, names, 2) for each in (first, second)]
        assert seen == [["a", "b"], ["a", "b"]]


async def test_runs_of_a_schedule_have_its_key(one: Replica) -> None:
    calls: Any = ScheduleServiceStub(one.channel)
    run = runs_pb2.StartRunRequest(type="wf", task_queue="q", fairness_key="a")
    schedule = schedules_pb2.Schedule(name="s", spec=schedules_pb2.ScheduleSpec(cron="0 0 1 1 *"), run=run)
    await calls.CreateSchedule(schedules_pb2.CreateScheduleRequest(schedule=schedule))
    shown_ = await calls.GetSchedule(schedules_pb2.GetScheduleRequest(name="s"))
    assert shown_.schedule.run.fairness_key == "a"
    await calls.TriggerSchedule(schedules_pb2.TriggerScheduleRequest(name="s"))
    async with one.service.dispatcher.reader.connection() as connection:
        find = "SELECT fairness_key FROM tasks"
        assert await until(lambda: connection.raw.fetchval(find)) == "a"


async def test_what_is_set_is_shown(one: Replica) -> None:
    assert (await fair(one, a=3, b=1000)).fairness == Fairness(weights={"a": 3, "b": 1000})
    assert (await shown(one)).settings.fairness == Fairness(weights={"a": 3, "b": 1000})
    assert (await fair(one)).HasField("fairness")


@pytest.mark.parametrize(
    "weights", [{"a": 0}, {"a": -1}, {"a": 1001}, {"a" * 65: 1}, {"a\n": 1}, {f"k{number}": 1 for number in range(257)}]
)
async def test_weights_that_cannot_be_are_refused(one: Replica, weights: dict[str, int]) -> None:
    assert await refusal(fair(one, **weights)) == ("INVALID_ARGUMENT", "INVALID_FIELD")


@pytest.mark.parametrize("key", ["k" * 65, "ü" * 33, "a\x00", "a\n"])
async def test_keys_that_cannot_be_are_refused(one: Replica, key: str) -> None:
    assert await refusal(one.start_job(fairness_key=key)) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert await refusal(one.start(fairness_key=key)) == ("INVALID_ARGUMENT", "INVALID_FIELD")
