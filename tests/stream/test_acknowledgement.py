"""Acknowledgement: a task whose worker says nothing of it returns; only after ten times it costs an attempt."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.stream.code import scheduled
from tests.stream.kit import ACTIVITY, Replica, capacity, replica
from tests.stream.wire import Wire, wire


async def test_an_unacknowledged_task_returns_in_time_and_costs_no_attempt(one: Replica) -> None:
    run_id = await scheduled(one)
    async with wire(one, "deaf", capacity=capacity(activities=1)) as deaf:
        lost = await deaf.task(ACTIVITY, ack=False)
        async with wire(one, "other", capacity=capacity(activities=1)) as other:
            revoked = await deaf.next("revokes")
            assert (revoked.ref, revoked.reason) == (lost.ref, "ACK_TIMEOUT")
            again = next(iter([await task_of(one, run_id, deaf, other)]))
            assert again.attempt == 1
            assert again.ref.token > lost.ref.token
    assert await one.count(run_id, "ActivityReturned") >= 1
    assert await one.count(run_id, "ActivityInterrupted") == 0


async def task_of(one: Replica, run_id: str, *streams: Wire) -> Any:
    """The next assignment, whoever gets it."""
    waits = [asyncio.create_task(stream.task(ACTIVITY, run_id=run_id)) for stream in streams]
    done, others = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for each in others:
        each.cancel()
    return done.pop().result()


async def test_after_ten_returns_an_attempt_is_spent(database_url: str) -> None:
    async with replica(database_url, ack_seconds=0.1) as one:
        run_id = await scheduled(one)
        async with wire(one, capacity=capacity(activities=1)) as deaf:
            attempts = [(await deaf.task(ACTIVITY, ack=False)).attempt for _ in range(11)]
        assert attempts == [1] * 10 + [2]
        assert await one.count(run_id, "ActivityInterrupted") == 1
        # The last of them may have returned meanwhile.
        assert await one.count(run_id, "ActivityReturned") in (9, 10)


async def test_a_worker_that_lets_a_task_lie_gets_no_other_until_it_speaks(one: Replica) -> None:
    run_id = await scheduled(one)
    async with wire(one, "frozen", is_lively=False, capacity=capacity(activities=5)) as frozen:
        await frozen.task(ACTIVITY, ack=False)
        async with wire(one, "awake", capacity=capacity(activities=5)) as awake:
            await frozen.next("revokes")
            await awake.complete(await awake.task(ACTIVITY))
            for _ in range(5):
                await scheduled(one)
                await awake.complete(await awake.task(ACTIVITY))
        assert frozen.most[ACTIVITY] == 1
        assert not frozen.got.get("assigns")
        await scheduled(one)
        await frozen.settled()
        await frozen.task(ACTIVITY)
    assert await one.count(run_id, "ActivityReturned") == 1


async def test_a_stale_acknowledgement_acknowledges_nothing(one: Replica) -> None:
    await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        first = await stream.task(ACTIVITY, ack=False)
        await stream.next("revokes")
        second = await stream.task(ACTIVITY, ack=False)
        await stream.ack(first)
        assert (await stream.next("revokes")).ref == second.ref


async def test_any_message_about_a_task_acknowledges_it(one: Replica) -> None:
    await scheduled(one, 2)
    async with wire(one, capacity=capacity(activities=2)) as stream:
        beaten, reported = [await stream.task(ACTIVITY, ack=False) for _ in range(2)]
        await stream.beat(beaten)
        await stream.complete(reported)
        # The time to acknowledge passes, and nothing may come of it.
        for _ in range(3):
            await asyncio.sleep(0.3)
            assert not (await stream.beat(beaten)).lost
        assert not stream.got.get("revokes")


async def test_what_was_not_acknowledged_returns_when_the_stream_breaks(database_url: str) -> None:
    """At once: long before it would have had to be acknowledged."""
    async with replica(database_url, ack_seconds=60.0, session_seconds=90.0) as one:
        run_id = await scheduled(one)
        async with wire(one, capacity=capacity(activities=1)) as stream:
            await stream.task(ACTIVITY, ack=False)
            await stream.cut()
            async with wire(one, "other", capacity=capacity(activities=1)) as other:
                assert (await other.task(ACTIVITY)).attempt == 1
        assert await one.count(run_id, "ActivityReturned") == 1
