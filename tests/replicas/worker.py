"""A worker process for replicas that come and go: what it does is in the ledger of `tests/chaos/worker.py`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

from tests.chaos.worker import QUEUE, checkpoint, chore, fetch, note

from stepwell import Client, Context, RetryPolicy, Worker, activity, workflow

GATE = os.environ.get("REPLICAS_GATE", "")


@activity
async def patient(name: str) -> str:
    """Has its effect, and does not end before the gate is there."""
    info = activity.info()
    note("activity", info.run_id, str(info.step_ordinal), info.attempt)
    while not await asyncio.to_thread(Path(GATE).exists):
        activity.heartbeat(name)
        await asyncio.sleep(0.05)
    return name


@workflow
async def leaf(ctx: Context, item: int) -> int:
    """A child's work: a checkpoint and an activity."""
    await ctx.step("look", checkpoint, ctx.info.run_id, "look")
    return await ctx.activity(fetch, item)


@workflow
async def order(ctx: Context, count: int) -> int:
    """A checkpoint, activities side by side, a durable sleep, a signal and a child."""
    await ctx.step("prepare", checkpoint, ctx.info.run_id, "prepare")
    results = await ctx.map(fetch, list(range(count)))
    await ctx.sleep(0.2)
    paid: int = await ctx.wait_signal("paid", as_type=int)
    return sum(results) + paid + await ctx.child(leaf, 3)


@workflow
async def single(ctx: Context, name: str) -> str:
    """One activity, during which anything may happen."""
    return await ctx.activity(patient, name)


@activity(retry=RetryPolicy(initial_interval=0.05))
async def stumble(item: int) -> int:
    """Fails at first."""
    info = activity.info()
    note("activity", info.run_id, str(info.step_ordinal), info.attempt)
    if info.attempt == 1:
        raise ValueError("not yet")
    return item


@workflow
async def tour(ctx: Context, place: int) -> list[int]:
    """A bit of nearly everything, each part of which may come to another replica than the one before."""
    added: list[int] = []
    ctx.on_update("add", added.append)
    first = await ctx.step("begin", checkpoint, ctx.info.run_id, "begin")
    second = await ctx.activity(stumble, place)
    winner = await ctx.race(ctx.activity(fetch, 2), ctx.sleep(300))
    told: int = await ctx.wait_topic(f"news {place}", as_type=int)
    verdict: int = await ctx.user_task("approve", place, role=f"clerk {place}", as_type=int)
    child = await ctx.child(leaf, 3)
    paid: int = await ctx.wait_signal("paid", as_type=int)
    ctx.set_attributes(toured=place)
    return [first, second, winner.value or 0, told, verdict, child, paid, *added]


@workflow
async def chain(ctx: Context, left: int) -> int:
    """Goes on as another run, so many times."""
    await ctx.step("link", checkpoint, ctx.info.run_id, "link")
    if left:
        ctx.continue_as_new(left - 1)
    return left


@workflow
async def patience(ctx: Context, place: int) -> int:
    """Waits until it is cancelled, or told to go."""
    del place
    return await ctx.wait_signal("go", as_type=int)


def expected(count: int, paid: int) -> int:
    """What `order` comes to."""
    return sum(item * item for item in range(count)) + paid + 9


async def main(address: str) -> None:
    """Works until it is told to leave."""
    logging.basicConfig(level=logging.INFO)
    async with await Client.connect(address) as client:
        worker = Worker(
            client,
            QUEUE,
            workflows=[order, leaf, single, tour, chain, patience],
            activities=[fetch, chore, patient, stumble],
            max_activities=10,
            max_runs=40,
        )
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
