"""Queues that give their tasks no faster than they are told, whoever asks, on whichever replica."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask
from tests.stream.calls import Caller
from tests.stream.kit import ACTIVITY, RUN, SECONDS, Replica, capacity, replica, until
from tests.stream.test_task_queues import shown, stub
from tests.stream.wire import wire

from stepwell.policies import duration
from stepwell.v1 import clock_pb2, explanations_pb2, task_queues_pb2
from stepwell.v1.clock_pb2_grpc import ClockServiceStub
from stepwell.v1.explanations_pb2_grpc import ExplanationServiceStub
from stepwell.v1.task_queues_pb2 import RateLimit

# So slow that no time of a test's own counts: a token in 10,000 s.
SLOW = 0.0001
TOKEN_SECONDS = 10_000.0
FAR = {"dispatch_poll_seconds": 600.0, "queue_settings_seconds": 600.0}


@asynccontextmanager
async def movable(url: str, **settings: Any) -> AsyncIterator[Replica]:
    async with replica(url, test_clock=True, **settings) as made:
        yield made


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Replica]:
    async with movable(database_url, dispatch_poll_seconds=600.0) as made:
        yield made


async def advance(one: Replica, seconds: float) -> None:
    clock: Any = ClockServiceStub(one.channel)
    await clock.AdvanceClock(clock_pb2.AdvanceClockRequest(by=duration(seconds)), timeout=SECONDS)


async def limited(one: Replica, burst: int, queue: str = "q", per_second: float = SLOW) -> Any:
    request = task_queues_pb2.UpdateTaskQueueRequest(task_queue=queue, update_mask=FieldMask(paths=["rate_limit"]))
    request.rate_limit.CopyFrom(RateLimit(per_second=per_second, burst=burst))
    return (await stub(one).UpdateTaskQueue(request, timeout=SECONDS)).settings


async def unlimited(one: Replica, queue: str = "q") -> None:
    request = task_queues_pb2.UpdateTaskQueueRequest(task_queue=queue, update_mask=FieldMask(paths=["rate_limit"]))
    await stub(one).UpdateTaskQueue(request, timeout=SECONDS)


async def jobs(one: Replica, count: int, queue: str = "q") -> list[str]:
    return [await one.start_job(queue=queue) for _ in range(count)]


def rests(one: Replica) -> bool:
    """Whether the replica knows that the queue gives nothing more, and waits for its time."""
    return bool(one.service.dispatcher.matcher._resting)


async def test_a_queue_gives_its_burst_and_then_a_token_at_a_time(one: Replica) -> None:
    """Nobody polls: with a poll far away, only the time of the next token brings it."""
    await limited(one, 3)
    await jobs(one, 6)
    async with wire(one, capacity=capacity(activities=10)) as stream:
        for _ in range(3):
            await stream.task(ACTIVITY)
        await until(lambda: rests(one))
        assert (len(stream.working), await one.waiting()) == (3, 3)
        await advance(one, TOKEN_SECONDS)
        await stream.task(ACTIVITY)
        await until(lambda: rests(one))
        assert (len(stream.working), await one.waiting()) == (4, 2)


async def test_the_time_of_the_next_token_is_waited_for(one: Replica) -> None:
    await limited(one, 1, per_second=2.0)
    await jobs(one, 2)
    async with wire(one, capacity=capacity(activities=10)) as stream:
        for _ in range(2):
            await stream.task(ACTIVITY)


async def test_a_fresh_task_goes_to_no_waiting_worker_without_a_token(one: Replica) -> None:
    await limited(one, 2)
    async with wire(one, capacity=capacity(activities=10, runs=10)) as stream:
        await stream.settled()
        await one.start()
        await stream.task(RUN)
        await one.start_job()
        await stream.task(ACTIVITY)
        await one.start()
        await one.start_job()
        await until(lambda: rests(one))
        assert (len(stream.working), await one.waiting()) == (2, 2)


async def test_two_replicas_give_out_of_one_bucket(database_url: str) -> None:
    """Thirty jobs, two workers with room for all, a bucket of seven: seven are given, and then one for each token."""
    async with movable(database_url) as first, movable(database_url) as second:
        await limited(first, 7)
        await until(lambda: second.service.dispatcher.queues.version_of(1, "q") == 1)
        await jobs(first, 30)
        async with (
            wire(first, "a", capacity=capacity(activities=30)) as here,
            wire(second, "b", capacity=capacity(activities=30)) as there,
        ):

            def given() -> int:
                return len(here.working) + len(there.working)

            await until(lambda: given() >= 7 and rests(first) and rests(second))
            assert (given(), await first.waiting()) == (7, 23)
            await advance(first, 2 * TOKEN_SECONDS)
            await until(lambda: given() >= 9 and rests(first))
            # The other one's clock comes to the same time: those tokens are gone.
            await advance(second, 2 * TOKEN_SECONDS)
            caller = await Caller.of(second)
            assert await caller.claim(wait=0, max_tasks=10) == []
            assert (given(), await first.waiting()) == (9, 21)


async def test_the_other_replica_hears_of_a_limit_by_a_hint(database_url: str) -> None:
    async with movable(database_url, **FAR) as first, movable(database_url, **FAR) as second:
        for each in (first, second):
            await each.service.hints.wait_company()
        await limited(first, 1)
        await until(lambda: second.service.dispatcher.queues.is_limited(1, "q"))


async def test_a_limit_whose_hint_was_lost_is_found_by_looking(database_url: str) -> None:
    async with movable(database_url) as first, movable(database_url, queue_settings_seconds=0.1) as second:
        first.service.hints.publish = lambda *_: None  # type: ignore[method-assign]
        await limited(first, 1)
        await until(lambda: second.service.dispatcher.queues.is_limited(1, "q"))


async def test_a_replica_knows_the_limits_before_it_gives_anything(database_url: str) -> None:
    async with movable(database_url) as first:
        await limited(first, 1)
    async with movable(database_url, **FAR) as second:
        assert second.service.dispatcher.queues.is_limited(1, "q")


async def test_claims_by_calls_take_tokens_too(one: Replica) -> None:
    await limited(one, 3)
    await jobs(one, 6)
    caller = await Caller.of(one)
    assert len(await caller.claim(wait=0, max_tasks=2)) == 2
    assert len(await caller.claim(wait=0, max_tasks=2)) == 1
    assert await caller.claim(wait=0, max_tasks=2) == []
    await advance(one, TOKEN_SECONDS)
    assert len(await caller.claim(wait=0, max_tasks=2)) == 1


async def test_a_limit_that_is_taken_away_holds_nothing_back(one: Replica) -> None:
    await limited(one, 1)
    await jobs(one, 5)
    async with wire(one, capacity=capacity(activities=10)) as stream:
        await until(lambda: rests(one))
        await unlimited(one)
        await until(lambda: len(stream.working) == 5)
        await stream.settled()
        await one.start_job()
        await until(lambda: len(stream.working) == 6)


async def test_a_faster_limit_than_before_gives_at_its_own_rate(one: Replica) -> None:
    """What was taken under the slow one, which took ten thousand seconds for a token, is no debt."""
    await limited(one, 2)
    await jobs(one, 6)
    async with wire(one, capacity=capacity(activities=10)) as stream:
        await until(lambda: rests(one))
        await limited(one, 2, per_second=50.0)
        await until(lambda: len(stream.working) == 6)


async def test_a_limit_is_that_of_one_queue_in_one_namespace(one: Replica) -> None:
    await limited(one, 1)
    await one.namespace("other")
    await one.start_job(namespace="other")
    await one.start_job(namespace="other")
    await jobs(one, 2, "free")
    caller = await Caller.of(one, task_queues=["q", "free"])
    assert len(await caller.claim(wait=0, max_tasks=9, task_queue="free")) == 2
    elsewhere = await shown(one, namespace="other")
    assert (elsewhere.settings.version, elsewhere.settings.HasField("rate_limit")) == (0, False)
    assert one.service.dispatcher.queues.is_limited(1, "q")
    assert not one.service.dispatcher.queues.is_limited(1, "free")


async def test_what_waits_for_a_token_says_so_and_until_when(one: Replica) -> None:
    await limited(one, 1)
    first, second = await jobs(one, 2)
    explain: Any = ExplanationServiceStub(one.channel)
    async with wire(one, capacity=capacity(activities=10)) as stream:
        await stream.task(ACTIVITY)
        await until(lambda: rests(one))
        request = explanations_pb2.ExplainJobRequest(job_id=second)
        (told,) = (await explain.ExplainJob(request, timeout=SECONDS)).explanations
        settings = (await shown(one)).settings
        assert told.code == explanations_pb2.Explanation.CODE_RATE_LIMITED
        assert told.until == settings.next_task_time
        assert "rate limit" in told.text
        assert settings.next_task_time.seconds - told.since.seconds > TOKEN_SECONDS / 2
        request = explanations_pb2.ExplainJobRequest(job_id=first)
        (told,) = (await explain.ExplainJob(request, timeout=SECONDS)).explanations
        assert told.code == explanations_pb2.Explanation.CODE_HELD
