"""A worker process that leaves a trace of all that it does in a file of its own, whatever becomes of the record."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from stepwell import Client, Context, RetryPolicy, Worker, activity, workflow

QUEUE = "chaos"
EFFECTS = os.environ.get("CHAOS_EFFECTS", "")
HOLD_SECONDS = float(os.environ.get("CHAOS_HOLD_SECONDS", "0.05"))
ACTIVITIES = int(os.environ.get("CHAOS_ACTIVITIES", "4"))


def note(kind: str, run: str, step: str, attempt: int, moment: str = "done") -> None:
    """One line, in one write."""
    line = {"kind": kind, "run": run, "step": step, "attempt": attempt, "moment": moment, "pid": os.getpid()}
    handle = os.open(EFFECTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, (json.dumps(line | {"time": time.time()}) + "\n").encode())
    finally:
        os.close(handle)


@activity
async def fetch(item: int) -> int:
    """Has its effect, and then takes a while to say so."""
    info = activity.info()
    note("activity", info.run_id, str(info.step_ordinal), info.attempt)
    await asyncio.sleep(HOLD_SECONDS)
    return item * item


@activity
async def whoami(name: str) -> int:
    """Says who did it; begins and ends with a line."""
    info = activity.info()
    note("activity", info.run_id, str(info.step_ordinal), info.attempt)
    deadline = time.monotonic() + HOLD_SECONDS
    while time.monotonic() < deadline:
        activity.heartbeat(name)
        await asyncio.sleep(0.05)
    note("end", info.run_id, str(info.step_ordinal), info.attempt, "end")
    return os.getpid()


@activity(heartbeat_timeout=2)
async def vigil(item: int) -> int:
    """Takes long, and says all the while that it lives."""
    info = activity.info()
    note("activity", info.run_id, str(info.step_ordinal), info.attempt)
    deadline = time.monotonic() + HOLD_SECONDS
    while time.monotonic() < deadline:
        activity.heartbeat(item)
        await asyncio.sleep(0.1)
    return item * item


@activity(retry=RetryPolicy(initial_interval=0.05))
async def chore(item: int) -> int:
    """A job: has its effect, and takes a while to say so. Every fifth fails at first."""
    info = activity.info()
    note("job", info.job_id, "", info.attempt)
    await asyncio.sleep(HOLD_SECONDS)
    activity.heartbeat(item)
    if item % 5 == 0 and info.attempt == 1:
        raise ValueError("not yet")
    return item * item


@workflow
async def errand(ctx: Context, count: int) -> int:
    """A checkpoint, activities side by side, a durable sleep, and a checkpoint again."""
    first = await ctx.step("prepare", checkpoint, ctx.info.run_id, "prepare")
    results = await ctx.map(fetch, list(range(count)))
    await ctx.sleep(0.2)
    last = await ctx.step("sum up", checkpoint, ctx.info.run_id, "sum up")
    return sum(results) + first + last


@workflow
async def broad(ctx: Context, count: int) -> int:
    """Very many activities, a few hundred at a time."""
    return sum(await ctx.map(fetch, range(count), limit=400))


@workflow
async def patient(ctx: Context, count: int) -> int:
    """Activities that take long, side by side."""
    return sum(await ctx.map(vigil, list(range(count))))


@workflow
async def contest(ctx: Context, count: int) -> list[int]:
    """Races between work and a time limit that takes about as long; what follows is done for whoever won."""
    places = []
    for number in range(count):
        winner = await ctx.race(ctx.activity(fetch, number), ctx.sleep(HOLD_SECONDS))
        await ctx.activity(fetch, winner.place, name=f"after {winner.place}")
        places.append(winner.place)
    return places


@workflow
async def stumbling(ctx: Context, faults: int) -> int:
    """A checkpoint and an activity, and a failure in so many attempts."""
    attempt = ctx.info.run_attempt
    await ctx.step("begin", checkpoint, ctx.info.run_id, f"attempt {attempt}")
    await ctx.activity(fetch, attempt)
    if attempt <= faults:
        raise ValueError(f"attempt {attempt}")
    return attempt


@workflow
async def single(ctx: Context, name: str) -> int:
    """One activity, which says who did it."""
    return await ctx.activity(whoami, name)


async def checkpoint(run: str, name: str) -> int:
    """A step in the worker that leaves its trace."""
    note("step", run, name, 1)
    await asyncio.sleep(HOLD_SECONDS)
    return 0


def expected(count: int) -> int:
    """What `errand` comes to."""
    return sum(item * item for item in range(count))


async def main(address: str) -> None:
    """Works until it is told to leave."""
    async with await Client.connect(address) as client:
        worker = Worker(
            client,
            QUEUE,
            workflows=[errand, broad, contest, patient, single, stumbling],
            activities=[fetch, whoami, vigil, chore],
            max_activities=ACTIVITIES,
            max_runs=20,
        )
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
