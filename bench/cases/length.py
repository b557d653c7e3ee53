"""Long runs, and many streams that do nothing."""

from __future__ import annotations

import asyncio
import resource

from bench.blocks import Bench
from bench.checks import CheckError
from bench.figures import Figure, median, spread
from bench.meters import counter, cpu_seconds, resident_bytes
from bench.stand import Crew, Stand, standing

_SHORT, _LONG, _SHORT_TIMES = 100, 10_000, 10
_STREAMS, _IDLE_SECONDS, _SETTLE_SECONDS = 2_000, 30.0, 5.0
_CONNECT_SECONDS = 240.0
# Each stream is a connection of its own, at both ends.
_FILES = 16_384


async def long_runs(bench: Bench) -> list[Figure]:
    """One run of ten thousand steps in a row, of as many activities in a row, and at once."""
    made = []
    kinds = {"long_steps": "many_steps", "long_activities": "many_activities", "long_fan_out": "fan_out"}
    baseline = await bench.ground.baseline(bench.sizes.baseline_seconds)
    async with standing(bench.ground) as stand:
        for case, what in kinds.items():
            bench.progress(what)
            short, long = await _steps(stand, bench, what)
            details = {"pgbench": baseline, "all": long, "all_short": short}
            ratio = median(long) / median(short)
            made.append(Figure(case, median(long), "us a step", ratio, median(short), spread(short), details=details))
        await stand.check()
    return made


async def idle_streams(bench: Bench) -> list[Figure]:
    """Two thousand workers that are connected to one replica and have nothing to do."""
    count = bench.sizes.count(_STREAMS)
    _allow_files()
    async with standing(bench.ground, crews=(), loads=()) as stand:
        await asyncio.sleep(_SETTLE_SECONDS)
        service = stand.services[0].pid
        before = resident_bytes(service)
        bench.progress(f"connects {count} workers")
        await stand.start_crew(Crew(slots=1, workers=count), seconds=_CONNECT_SECONDS)
        await _connected(stand, count)
        await asyncio.sleep(_SETTLE_SECONDS)
        each = (resident_bytes(service) - before) / count / 1024
        bench.progress("idles")
        used, seconds = cpu_seconds(service), bench.sizes.seconds(_IDLE_SECONDS)
        await asyncio.sleep(seconds)
        part = (cpu_seconds(service) - used) / seconds * 100
        await _connected(stand, count)
    details = {"streams": count, "service_mib": before / 2**20}
    return [
        Figure("streams_memory", each, "KiB a stream", details=details),
        Figure("streams_cpu", part, "% of a core", details=details),
    ]


async def _steps(stand: Stand, bench: Bench, what: str) -> tuple[list[float], list[float]]:
    """Microseconds a step of short runs, before and after a long one, and of the long one."""
    long = bench.sizes.count(_LONG)
    short_us: list[float] = []
    long_us: list[float] = []
    for length, times in ((_SHORT, _SHORT_TIMES), (long, 1), (_SHORT, _SHORT_TIMES)):
        told = await stand.do({"do": "once", "what": what, "input": length, "times": times})
        if told["wrong"] or told["completed"] != times:
            raise CheckError(f"{what} of {length} was not answered well: {told}")
        stand.expected.add_runs(what, times, times * length)
        (long_us if length == long else short_us).append(told["completed_p50"] * 1e3 / length)
    return short_us, long_us


async def _connected(stand: Stand, count: int) -> None:
    """Waits until the service has so many streams."""
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            # Another process does it.
            while await asyncio.to_thread(counter, stand.metrics[0], "stepwell_streams") != count:  # noqa: ASYNC110
                await asyncio.sleep(0.5)
    except TimeoutError:
        raise CheckError(f"there are not {count} streams after {_CONNECT_SECONDS:.0f} s") from None


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
