"""Delays: open loops, whose starts come at random times whatever is under way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from bench.blocks import Bench, cpu_facts, delay, rates
from bench.cases.capacity import CALLERS
from bench.figures import Figure, median
from bench.stand import Measured, Stand, standing

# The first seconds after pgbench, which leaves much to write behind, count for nothing.
_IDLE_RATE, _IDLE_SECONDS, _IDLE_WARM = 50, 20.0, 6.0
_MIDDLE_RATE, _MIDDLE_SECONDS = 1_000, 10.0
_CLOSED_SECONDS, _HALF_SECONDS = 5.0, 10.0


async def idle(bench: Bench) -> list[Figure]:
    """Rows of 50 a second: start to the workflow's function called, and to completed."""
    async with standing(bench.ground) as stand:
        seconds = bench.sizes.seconds(_IDLE_SECONDS)
        timed = partial(stand.open, "timed", rate=_IDLE_RATE, seconds=seconds, warm=_IDLE_WARM)
        block = await bench.block({"idle": timed})
        await stand.check()
    names = ("called_p50", "called_p99", "completed_p50", "completed_p99")
    return [delay(name, block, "idle", name) for name in names]


async def loaded(bench: Bench) -> list[Figure]:
    """Rows of 1,000 a second and of half of the own maximum, and what a run costs at 1,000 against saturation."""
    async with standing(bench.ground) as stand:
        closed_seconds = bench.sizes.seconds(_CLOSED_SECONDS)
        reached: list[float] = []

        async def closed() -> Measured:
            measured = await stand.closed("one_activity", callers=CALLERS, seconds=closed_seconds)
            reached.append(measured.rate)
            return measured

        async def half() -> Measured:
            rate = median(reached) / 2
            return await stand.open("one_activity", rate=rate, seconds=bench.sizes.seconds(_HALF_SECONDS))

        measures: dict[str, Callable[[], Awaitable[Measured]]] = {"closed": closed, "half": half}
        measures["thousand"] = partial(_thousand, stand, bench)
        block = await bench.block(measures)
        await stand.check()
    half_p99 = delay("half_p99", block, "half", "completed_p99")
    half_p99.details["rate"] = median(rates(block.measured["half"]))
    saturated, middle = (cpu_facts(block.measured[name]) for name in ("closed", "thousand"))
    whole, at_middle = sum(saturated.values()), sum(middle.values())
    price = Figure(
        "middle_cpu",
        at_middle,
        "us a run",
        ratio=at_middle / whole,
        baseline=whole,
        details={
            **block.facts,
            "cpu_us": {"saturated": saturated, "at_1000": middle},
            "service_ratio": middle["service"] / saturated["service"],
        },
    )
    return [
        delay("thousand_p50", block, "thousand", "completed_p50"),
        delay("thousand_p99", block, "thousand", "completed_p99"),
        half_p99,
        price,
    ]


async def _thousand(stand: Stand, bench: Bench) -> Measured:
    return await stand.open("one_activity", rate=_MIDDLE_RATE, seconds=bench.sizes.seconds(_MIDDLE_SECONDS))
