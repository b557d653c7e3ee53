"""Databases that are not fresh: grown tables, a snapshot that somebody holds, a backlog."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import asyncpg

from bench.blocks import Bench, kept
from bench.cases.capacity import CALLERS
from bench.checks import CheckError, Expected
from bench.figures import Figure
from bench.grown import COPIED, copy_runs
from bench.stand import Crew, Measured, Stand, standing
from stepwell_server.store.migrations import migrate

_SECONDS = 6.0
_FINISHED, _WAITING, _TEMPLATES = 1_000_000, 100_000, 1_000
_WINDOW_SECONDS, _WINDOWS = 28.0, 20
# Half of what is started finds no slot, and must be claimed.
_FEW_SLOTS = 500
_BACKLOG, _NEW_PART = 100_000, 0.1
_DRAIN_SECONDS, _LOOK_SECONDS = 600.0, 0.25

_WAIT_ALONE = """
    SELECT count(*) = $1 AND NOT EXISTS (SELECT FROM stepwell.tasks)
    FROM stepwell.runs JOIN stepwell.steps USING (run_key)
    WHERE steps.wake_time IS NOT NULL AND runs.session_id IS NULL AND NOT queued
"""
_OF_TYPE = "SELECT count(*) FROM stepwell.closed_runs WHERE type = $1"
_ENDED_BY = """
    SELECT count(*) FROM stepwell.closed_runs
    WHERE end_time <= (SELECT max(end_time) FROM stepwell.closed_runs WHERE run_key <= $1)
"""


async def grown(bench: Bench) -> list[Figure]:
    """The first row in a database with a million finished runs and a hundred thousand waiting ones."""
    url = await bench.ground.new_database("grown")
    await migrate(url)
    expected = await _fill(bench, url)

    async def fresh() -> Measured:
        async with standing(bench.ground) as stand:
            return await _load(stand, bench)

    async def big() -> Measured:
        async with standing(bench.ground, url=url) as stand:
            stand.expected = expected
            return await _load(stand, bench)

    measures: dict[str, Callable[[], Awaitable[Measured]]] = {"fresh": fresh, "grown": big}
    figure = kept("grown", await bench.block(measures), "fresh", "grown")
    figure.details["copied"] = await _count(url, _OF_TYPE, COPIED)
    figure.details["waiting"] = await _count(url, "SELECT count(*) FROM stepwell.runs")
    figure.details["bytes"] = await _count(url, "SELECT pg_database_size(current_database())")
    await bench.ground.drop_database(url)
    return [figure]


async def snapshot(bench: Bench) -> list[Figure]:
    """The first row while another transaction of the same database holds its snapshot, for ten minutes."""
    seconds = bench.sizes.seconds(_WINDOW_SECONDS)
    windows: list[Measured] = []
    before = await bench.ground.baseline(bench.sizes.baseline_seconds)
    async with standing(bench.ground, crews=[Crew(slots=_FEW_SLOTS)]) as stand:
        without = await stand.closed("one_activity", callers=CALLERS, seconds=seconds)
        holder = await asyncpg.connect(stand.url, statement_cache_size=0)
        await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await holder.fetchval("SELECT count(*) FROM stepwell.namespaces")
        count = max(2, round(_WINDOWS * min(1.0, bench.sizes.scale)))
        for number in range(count):
            bench.progress(f"snapshot held, {number + 1}/{count}")
            windows.append(await stand.closed("one_activity", callers=CALLERS, seconds=seconds))
        await holder.close()
        await stand.check()
    after = await bench.ground.baseline(bench.sizes.baseline_seconds)
    details = {
        "pgbench": before,
        "pgbench_after": after,
        "windows": [each.rate for each in windows],
        "cpu_us": {"without": without.cpu, "at_the_end": windows[-1].cpu},
    }
    ratio = windows[-1].rate / without.rate
    return [Figure("snapshot", windows[-1].rate, "runs a second", ratio, without.rate, details=details)]


async def backlog(bench: Bench) -> list[Figure]:
    """A hundred thousand runs that waited for workers, while a tenth of the capacity comes in anew."""
    count = bench.sizes.count(_BACKLOG)
    async with standing(bench.ground) as stand:
        bench.progress("closed loop")
        most = (await _load(stand, bench)).rate
    async with standing(bench.ground, crews=()) as stand:
        bench.progress(f"starts {count}")
        told = await stand.do({"do": "start", "what": "one_activity", "count": count})
        stand.expected.add_runs("one_activity", told["started"], told["started"])
        last = await _count(stand.url, "SELECT max(run_key) FROM stepwell.runs")
        await bench.ground.execute("CHECKPOINT")
        bench.progress("drains")
        await stand.start_crew(Crew())
        began = time.monotonic()
        async with asyncio.TaskGroup() as both:
            both.create_task(
                stand.open("one_activity", rate=max(1.0, most * _NEW_PART), seconds=count / most, warm=0.0)
            )
            draining = both.create_task(_drained(stand.url, last))
        seconds = draining.result() - began
        ended = await _count(stand.url, _ENDED_BY, last)
        await stand.check()
        await _check_order(stand.url, last)
    rate = ended / seconds
    details = {"backlog": count, "seconds": seconds, "ended_meanwhile": ended}
    return [Figure("backlog", rate, "runs a second", rate / most, most, details=details)]


async def _load(stand: Stand, bench: Bench) -> Measured:
    measured = await stand.closed("one_activity", callers=CALLERS, seconds=bench.sizes.seconds(_SECONDS))
    await stand.check()
    return measured


async def _fill(bench: Bench, url: str) -> Expected:
    """Makes templates by the service and copies them; answers what the templates are."""
    finished, waiting = bench.sizes.count(_TEMPLATES), bench.sizes.count(_WAITING) // 100
    bench.progress("makes templates")
    # Runs that wait are held by nobody, as those that wait for long are.
    async with standing(bench.ground, url=url, crews=[Crew(resident=0)]) as stand:
        load = {"do": "start", "bytes": 100}
        for what, count in (("one_activity", finished), ("waiting", waiting)):
            await stand.do(load | {"what": what, "count": count})
        stand.expected.add_runs("one_activity", finished, finished)
        await _until(url, "SELECT count(*) = $1 FROM stepwell.closed_runs", finished)
        await _until(url, _WAIT_ALONE, waiting)
        expected = stand.expected
    bench.progress("copies them")
    await copy_runs(
        url, "SELECT run_key FROM stepwell.closed_runs", max(1, bench.sizes.count(_FINISHED) // finished - 1)
    )
    await copy_runs(url, "SELECT run_key FROM stepwell.runs", max(1, bench.sizes.count(_WAITING) // waiting - 1))
    bench.progress("vacuums")
    await bench.ground.execute("VACUUM ANALYZE", url=url)
    return expected


async def _drained(url: str, last: int) -> float:
    """Waits until no run up to a key is open, and answers when that was."""
    await _until(url, "SELECT NOT EXISTS (SELECT FROM stepwell.runs WHERE run_key <= $1)", last)
    return time.monotonic()


async def _check_order(url: str, last: int) -> None:
    """Tenths of the backlog ended in the order of their start. Raises `CheckError`."""
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        ends = await connection.fetch(
            "SELECT avg(extract(epoch FROM end_time)) AS ended FROM (SELECT end_time, "
            "ntile(10) OVER (ORDER BY create_time, run_key) AS tenth FROM stepwell.closed_runs WHERE run_key <= $1) t "
            "GROUP BY tenth ORDER BY tenth",
            last,
        )
    finally:
        await connection.close()
    times = [float(each["ended"]) for each in ends]
    if times != sorted(times):
        since = [round(each - times[0], 2) for each in times]
        raise CheckError(f"the backlog was not drained oldest first: tenths ended after {since} s")


async def _until(url: str, question: str, *arguments: object) -> None:
    """Asks until the answer is yes."""
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while not await connection.fetchval(question, *arguments):  # noqa: ASYNC110 - another process does it
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError:
        raise CheckError(f"not so after {_DRAIN_SECONDS:.0f} s: {question}") from None
    finally:
        await connection.close()


async def _count(url: str, question: str, *arguments: object) -> int:
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        return int(await connection.fetchval(question, *arguments))
    finally:
        await connection.close()
