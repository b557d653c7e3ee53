"""The first row under other conditions: slow commits, full traces, many who watch, a loud neighbour, two replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from grpc.aio import UnaryStreamCall

from bench.blocks import Bench, cpu_facts, kept
from bench.cases.capacity import CALLERS
from bench.figures import Figure, median, spread
from bench.stand import Crew, Measured, Stand, standing
from stepwell import Client
from stepwell.v1 import runs_pb2

_SECONDS = 6.0
_QUIET_RATE, _QUIET_SECONDS = 50, 15.0
_LOUD_CALLERS = 1_000
_WATCHES = 200

Measures = dict[str, Callable[[], Awaitable[Measured]]]


async def slow_commits(bench: Bench) -> list[Figure]:
    """Each commit waits 3 ms before its flush, also when it is the only one."""
    async with standing(bench.ground) as stand:

        async def slow() -> Measured:
            await _set_commits(bench, "ALTER SYSTEM SET commit_delay = 3000", "ALTER SYSTEM SET commit_siblings = 0")
            try:
                return await _load(stand, bench)
            finally:
                await _set_commits(bench, "ALTER SYSTEM RESET commit_delay", "ALTER SYSTEM RESET commit_siblings")

        measures: Measures = {"usual": partial(_load, stand, bench), "slow": slow}
        block = await bench.block(measures)
        await stand.check()
    return [kept("slow_commits", block, "usual", "slow")]


async def traced(bench: Bench) -> list[Figure]:
    """Every trace sampled, against 1 %."""
    measures: Measures = {name: partial(_alone, bench, sampled) for name, sampled in (("usual", 0.01), ("all", 1.0))}
    return [kept("traced", await bench.block(measures), "usual", "all")]


async def watched(bench: Bench) -> list[Figure]:
    """Beside two hundred watches of ids with endings of their own, as clients have them that wait for their runs."""
    async with standing(bench.ground) as stand:

        async def beside() -> Measured:
            async with await Client.connect(stand.addresses[0], api_key=stand.key) as client:
                requests = [runs_pb2.WatchRunsRequest(id_suffix=f"{number:04x}") for number in range(_WATCHES)]
                calls = [client.run_stub.WatchRuns(request, metadata=client.caller.metadata) for request in requests]
                await asyncio.gather(*(call.read() for call in calls))
                reading = [asyncio.create_task(_read_all(call)) for call in calls]
                measured = await _load(stand, bench)
                for task in reading:
                    task.cancel()
                return measured

        measures: Measures = {"alone": partial(_load, stand, bench), "beside": beside}
        block = await bench.block(measures)
        await stand.check()
    return [kept("watched", block, "alone", "beside")]


async def _read_all(call: UnaryStreamCall[Any, Any]) -> None:
    async for _ in call:
        pass


async def replicas(bench: Bench) -> list[Figure]:
    """Two service processes with a worker process each, over which the load goes in turn, against one."""
    measures: Measures = {str(count): partial(_alone, bench, 0.01, count) for count in (1, 2)}
    return [kept("replicas", await bench.block(measures), "1", "2")]


async def quiet_namespace(bench: Bench) -> list[Figure]:
    """Fifty starts a second in one namespace, alone and beside a closed loop in another."""
    async with standing(bench.ground, crews=(), loads=()) as stand:
        async with await Client.connect(stand.addresses[0], api_key=stand.key) as client:
            await client.create_namespace("loud")
        await stand.start_load("main")
        await stand.start_load("loud")
        for namespace in ("main", "loud"):
            await stand.start_crew(Crew(namespace))
        quiet = partial(stand.open, "timed", rate=_QUIET_RATE, seconds=bench.sizes.seconds(_QUIET_SECONDS))

        async def beside() -> Measured:
            # It begins before what counts of the quiet one does, and ends after.
            seconds = bench.sizes.seconds(_QUIET_SECONDS) + 3.0
            loud = {"do": "closed", "what": "one_activity", "callers": _LOUD_CALLERS, "warm": 0.0, "seconds": seconds}
            async with asyncio.TaskGroup() as both:
                louder = both.create_task(stand.measure(loud, load=1))
                measured = both.create_task(quiet())
            measured.result().told["loud_rate"] = louder.result().rate
            return measured.result()

        measures: Measures = {"alone": quiet, "beside": beside}
        block = await bench.block(measures)
        await stand.check()
    alone, loud = ([each.told["completed_p99"] for each in block.measured[name]] for name in measures)
    details = {
        **block.facts,
        "cpu_us": {name: cpu_facts(measured) for name, measured in block.measured.items()},
        "p50": {name: median([each.told["completed_p50"] for each in block.measured[name]]) for name in measures},
        "loud_rate": median([each.told["loud_rate"] for each in block.measured["beside"]]),
        "all": loud,
        "all_without": alone,
    }
    ratio = median(loud) / median(alone)
    return [Figure("quiet_namespace", median(loud), "ms", ratio, median(alone), spread(loud), details=details)]


async def _load(stand: Stand, bench: Bench) -> Measured:
    return await stand.closed("one_activity", callers=CALLERS, seconds=bench.sizes.seconds(_SECONDS))


async def _alone(bench: Bench, sampled: float, count: int = 1) -> Measured:
    """A stand of its own for one measurement: nothing idles beside it."""
    crews = [Crew(slots=CALLERS // count, replica=number) for number in range(count)]
    async with standing(bench.ground, replicas=count, crews=crews, sampled=sampled) as stand:
        measured = await _load(stand, bench)
        await stand.check()
    return measured


async def _set_commits(bench: Bench, *statements: str) -> None:
    await bench.ground.execute(*statements, "SELECT pg_reload_conf()")
    await bench.ground.execute("SELECT pg_sleep(0.1)")  # backends hear of it with their next statement
