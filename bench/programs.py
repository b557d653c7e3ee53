"""What is run: workflows and activities that do nothing, so that only the service's own work is left."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from stepwell import Client, Concurrency, Context, Debounce, activity, workflow

QUEUE = "bench"
Value = dict[str, Any]
# JSON around the text.
_AROUND = len('{"text":""}')
DAY = 86_400


def payload(size: int) -> Value:
    """A value of so many bytes as JSON."""
    return {"text": "x" * (size - _AROUND)}


@activity
async def echo(value: Value) -> Value:
    """Nothing at all."""
    return value


@workflow
async def one_activity(ctx: Context, value: Value) -> Value:
    """One activity."""
    return await ctx.activity(echo, value)


@workflow
async def three_steps(ctx: Context, value: Value) -> Value:
    """Three checkpoints, each recorded before the next begins."""
    for name in ("first", "second", "third"):
        value = await ctx.step(name, _kept, value)
    return value


@workflow
async def timed(ctx: Context, value: Value) -> Value:
    """One activity, and when this function was called; the machine's clock, for all processes the same."""
    called = time.monotonic()
    return await ctx.activity(echo, value) | {"called": called}


@workflow
async def many_steps(ctx: Context, count: int) -> int:
    """So many checkpoints in a row."""
    for number in range(count):
        await ctx.step("step", _kept, {"text": number})
    return count


@workflow
async def many_activities(ctx: Context, count: int) -> int:
    """So many activities in a row."""
    for _ in range(count):
        await ctx.activity(echo, payload(100))
    return count


@workflow
async def fan_out(ctx: Context, count: int) -> int:
    """So many activities at once."""
    return len(await asyncio.gather(*(ctx.activity(echo, payload(100)) for _ in range(count))))


@workflow
async def waiting(ctx: Context, value: Value) -> Value:
    """Waits for a day, for a signal that does not come."""
    await ctx.wait_signal("never", timeout=DAY)
    return value


WORKFLOWS = (one_activity, three_steps, timed, many_steps, many_activities, fan_out, waiting)
ACTIVITIES = (echo,)

# Customers, who come in turn; each may have so many runs at work.
_CUSTOMERS, _SLOTS = 200, 20
_customers = itertools.cycle(range(_CUSTOMERS))

# One operation of a load: performs it, and answers what came back.
Operation = Callable[[Client, Value], Awaitable[Value]]


async def _run_one_activity(client: Client, value: Value) -> Value:
    return await (await client.start_run(one_activity, value, task_queue=QUEUE)).result()


async def _run_three_steps(client: Client, value: Value) -> Value:
    return await (await client.start_run(three_steps, value, task_queue=QUEUE)).result()


async def _run_timed(client: Client, value: Value) -> Value:
    return await (await client.start_run(timed, value, task_queue=QUEUE)).result()


async def _run_in_slots(client: Client, value: Value) -> Value:
    limit = Concurrency(key=f"customer-{next(_customers)}", maximum_runs=_SLOTS)
    return await (await client.start_run(one_activity, value, task_queue=QUEUE, concurrency=limit)).result()


async def _run_debounced(client: Client, value: Value) -> Value:
    debounce = Debounce(key=str(uuid.uuid4()), period=0.001)
    return await (await client.start_run(one_activity, value, task_queue=QUEUE, debounce=debounce)).result()


async def _run_in_turns(client: Client, value: Value) -> Value:
    key = f"customer-{next(_customers)}"
    return await (await client.start_run(one_activity, value, task_queue=QUEUE, fairness_key=key)).result()


async def _do_job(client: Client, value: Value) -> Value:
    return await (await client.start_job(echo, value, task_queue=QUEUE)).result()


OPERATIONS: dict[str, Operation] = {
    "one_activity": _run_one_activity,
    "three_steps": _run_three_steps,
    "timed": _run_timed,
    "jobs": _do_job,
    "in_slots": _run_in_slots,
    "debounced": _run_debounced,
    "in_turns": _run_in_turns,
}
TYPES = dict.fromkeys(("in_slots", "debounced", "in_turns"), one_activity.__name__)
"""Of operations that are not named as the type of run that they start, that type."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a program on uvloop's event loop, if that is installed; all programs of a measurement alike."""
    try:
        factory = importlib.import_module("uvloop").new_event_loop
    except ModuleNotFoundError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


async def _kept(value: Value) -> Value:
    return value
