"""The conformance worker in Python: a plain program of the SDK, with what docs/conformance.md asks of each language."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from typing import Any

from stepwell import ApplicationError, Client, Context, RunCancelled, Worker, activity, workflow

LEDGER = os.environ.get("STEPWELL_LEDGER", "")
IS_CHANGED = os.environ.get("STEPWELL_VARIANT", "") == "changed"
CRASH_BEATS = 3


@activity
async def echo(value: Any) -> Any:
    """Returns what it is given."""
    return value


@activity
async def fail(told: dict[str, Any]) -> None:
    """Fails as it is told to."""
    raise ApplicationError(told["message"], type=told["kind"], non_retryable=told["non_retryable"])


@activity
async def flaky(told: dict[str, int]) -> int:
    """Fails so many times, and then tells which attempt it is."""
    attempt = activity.info().attempt
    if attempt <= told["failures"]:
        raise ApplicationError(f"attempt {attempt} fails", type="Flaky")
    return attempt


@activity
async def hold(told: dict[str, float]) -> str:
    """Takes its time."""
    await asyncio.sleep(told["seconds"])
    return "held"


@activity
async def beat(told: dict[str, Any]) -> dict[str, int | None]:
    """Tells now and then how far it is, and goes on from where the attempt before was."""
    info = activity.info()
    before = info.heartbeat_details
    resumed_from = None if before is None else before["beat"]
    number = resumed_from or 0
    first, end = number, time.monotonic() + told["seconds"]
    while time.monotonic() < end:
        number += 1
        activity.heartbeat({"beat": number})
        if told.get("crash") and info.attempt == 1 and number - first == CRASH_BEATS:
            raise ApplicationError("told to crash", type="Crash")
        await asyncio.sleep(told["every"])
    return {"resumed_from": resumed_from, "beats": number}


@activity
async def effect(told: dict[str, Any]) -> str:
    """Has an effect outside of Stepwell, a line of the ledger, and then takes a while to say so."""
    key: str = told["key"]
    line = {"key": key, "language": "python", "pid": os.getpid(), "attempt": activity.info().attempt}
    if LEDGER:
        handle = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, (json.dumps(line | {"time": time.time()}) + "\n").encode())
        finally:
            os.close(handle)
    await asyncio.sleep(told["seconds"])
    return key


def _give(value: Any) -> Any:
    return value


@workflow
async def steps(ctx: Context, told: dict[str, int]) -> int:
    """Records so many local steps, one after the other."""
    total = 0
    for index in range(told["count"]):
        total += await ctx.step("step", _index, index)
    return total


# Async, so that ten thousand of them take no thread each.
async def _index(index: int) -> int:
    return index


@workflow(name="activities")
async def many(ctx: Context, told: dict[str, Any]) -> list[Any]:
    """Has so many activities of a type performed side by side."""
    return await ctx.map(lambda _: ctx.activity(told["type"], told["input"]), range(told["count"]))


@workflow
async def waiter(ctx: Context) -> Any:
    """Waits for a signal and returns what it carries."""
    return await ctx.wait_signal("go")


@workflow
async def asked(ctx: Context) -> str:
    """Answers a query for as long as it waits."""
    ctx.on_query("state", lambda: {"waiting": True})
    await ctx.wait_signal("go")
    return "done"


@workflow
async def cleaner(ctx: Context) -> None:
    """Cleans up when it is cancelled."""
    try:
        await ctx.wait_signal("never")
    except RunCancelled:
        await ctx.activity(echo, "cleaned")
        raise


@workflow
async def parent(ctx: Context, told: dict[str, int]) -> int:
    """Has a child do the steps."""
    return await ctx.child(steps, told)


@workflow
async def sleeper(ctx: Context, told: dict[str, float]) -> str:
    """Sleeps durably."""
    await ctx.sleep(told["seconds"])
    return "slept"


@workflow
async def ordered(ctx: Context) -> str:
    """Two steps around a wait; the changed variant has another first step."""
    await ctx.step("other" if IS_CHANGED else "first", _give, 1)
    await ctx.wait_signal("go")
    await ctx.step("second", _give, 2)
    return "ordered"


@workflow
async def errand(ctx: Context, told: dict[str, Any]) -> int:
    """A bit of everything, with effects outside."""
    key = await ctx.step("begin", _give, told["key"])
    done = await ctx.map(
        lambda index: ctx.activity(effect, {"key": f"{key}/{index}", "seconds": told["seconds"]}),
        range(told["activities"]),
    )
    await ctx.sleep(0.05)
    await ctx.child(steps, {"count": 3})
    return await ctx.step("end", _give, len(done))


WORKFLOWS = (steps, many, waiter, asked, cleaner, parent, sleeper, ordered, errand)
ACTIVITIES = (echo, fail, flaky, hold, beat, effect)


async def main() -> None:
    """Works until it is told to leave."""
    setting = os.environ.get
    address = setting("STEPWELL_ADDRESS", "127.0.0.1:7233")
    async with await Client.connect(address, namespace=setting("STEPWELL_NAMESPACE", "main")) as client:
        worker = Worker(
            client,
            setting("STEPWELL_TASK_QUEUE", "conformance"),
            workflows=WORKFLOWS,
            activities=ACTIVITIES,
            max_activities=int(setting("STEPWELL_MAX_ACTIVITIES", "10")),
            max_runs=int(setting("STEPWELL_MAX_RUNS", "10")),
            max_resident_runs=int(setting("STEPWELL_MAX_RESIDENT", "10")),
        )
        ready = asyncio.create_task(_say_ready(worker))
        try:
            await worker.run()
        finally:
            ready.cancel()


async def _say_ready(worker: Worker) -> None:
    await worker.is_connected.wait()
    print("ready", flush=True)


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    asyncio.run(main())
