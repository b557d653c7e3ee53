"""Many runs, workers, publishers and replicas at once: each run gets every event that is kept, in order and once."""

from __future__ import annotations

import asyncio
import random

from tests.sdk.live import Live, live

from stepwell import Context, WaitTimeout, workflow

RUNS, WAITS, EVENTS = 16, 12, 40


@workflow
async def follows(ctx: Context, patience: float | None) -> list[int]:
    """What its waits came to, one after the other; one that times out is tried again."""
    got: list[int] = []
    while len(got) < WAITS:
        try:
            got.append(await ctx.wait_topic("news", timeout=patience, as_type=int))
        except WaitTimeout:
            continue
    return got


async def publish(replicas: list[Live], kept: dict[int, int], others: dict[int, int]) -> None:
    """Some are kept for later waits; each says by its value which it is."""

    async def one(value: int) -> None:
        is_kept = value % 2 == 0
        number = await random.choice(replicas).client.topics.publish("news", value, retain=60 if is_kept else None)
        (kept if is_kept else others)[number] = value

    for first in range(0, EVENTS, 4):
        await asyncio.gather(*(one(first + n) for n in range(4)))


async def test_no_run_misses_what_is_kept_nor_gets_it_twice(database_url: str) -> None:
    """Waits are recorded, time out and get events while those are published, by two leaders' worth of replicas."""
    kept: dict[int, int] = {}
    others: dict[int, int] = {}
    async with live(database_url, committers=2) as one, live(database_url, committers=2) as other:
        crowd = {"workflows": [follows], "max_resident_runs": 4}
        async with one.working(**crowd), other.working(**crowd):
            patience = (None, 0.02, 0.2)
            handles = [await one.client.start_run(follows, patience[n % 3]) for n in range(RUNS)]
            await publish([one, other], kept, others)
            async with asyncio.timeout(60):
                results = [await handle.result() for handle in handles]
    numbers = {value: number for number, value in (kept | others).items()}
    in_order = [kept[number] for number in sorted(kept)]
    for got in results:
        assert [numbers[value] for value in got] == sorted({numbers[value] for value in got})
        had = [value for value in got if value % 2 == 0]
        assert had == in_order[: len(had)]
