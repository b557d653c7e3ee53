"""A month of work: the database grows to what its retention keeps, and no further. Each table says what bounds it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from google.protobuf.duration_pb2 import Duration
from tests.api.stores import Store, create
from tests.api.stores import json as as_json
from tests.sdk.live import Live, live
from tests.stream.kit import until
from tests.upgrades.ground import connected

from stepwell import Concurrency, Context, Debounce, RateLimit, activity, workflow
from stepwell.v1 import clock_pb2, clock_pb2_grpc

DAYS, KEPT_DAYS = 30, 3
LOOKS = (10, 20, 30)
RUNS, JOBS, DRIVEN = 60, 40, 6
# So many keys a day that a range of ten million is through in three days.
KEY_BLOCKS_A_DAY = 3_334
# Between two looks a table may be as much larger as chance makes it: rows of a quiet night or a loud one.
MORE_ROWS, MORE_BYTES, LITTLE_ROWS, LITTLE_BYTES = 1.25, 1.35, 40, 128 * 1024

RETENTION = "the retention of its run"
JOB_RETENTION = "the retention of its job"
OPEN = "what is open"
PEOPLE = "what people have made"
BOUNDED_BY = {
    "run_ids": RETENTION,
    "workflow_ids": RETENTION,
    "closed_runs": RETENTION,
    "closed_steps": RETENTION,
    "events": RETENTION,
    "caller_seqs": RETENTION,
    "user_tasks": RETENTION,
    "search_attributes": RETENTION,
    "snapshots": RETENTION,
    "run_data": RETENTION,
    "run_origins": RETENTION,
    "run_definitions": RETENTION,
    "published": RETENTION,
    "dispatches": "the retention of its run, or of its namespace where there is no such run",
    "idempotency_keys": "the retention of its run, or of its namespace where there is no such run",
    "job_ids": JOB_RETENTION,
    "unique_jobs": JOB_RETENTION,
    "closed_jobs": JOB_RETENTION,
    "job_inputs": JOB_RETENTION,
    "runs": OPEN,
    "steps": OPEN,
    "jobs": OPEN,
    "tasks": OPEN,
    "run_tasks": OPEN,
    "scopes": OPEN,
    "watchers": OPEN,
    "topic_waits": OPEN,
    "concurrency_slots": OPEN,
    "run_debounces": OPEN,
    "mail": "what is on its way",
    "inbox": "what is on its way",
    "schedule_firings": "what is on its way",
    "schedule_runs": "a thousand of each schedule",
    "heartbeats": "open activities and jobs",
    "signals": "open runs, and a day",
    "requests": "a day",
    "batches": "an hour",
    "run_calls": "a minute after the caller has gone",
    "topic_events": "how long each is retained",
    "topic_positions": "how long the topic's events are retained",
    "dead_letters": "STEPWELL_DEAD_LETTER_SECONDS",
    "key_buckets": "keys that were busy just now",
    "concurrency_rounds": "limits that somebody is under",
    "sessions": "live workers",
    "workers": "what outside engines register, and remove",
    "leaderships": "the names of leaderships",
    "namespaces": PEOPLE,
    "schedules": PEOPLE,
    "definitions": PEOPLE,
    "api_keys": PEOPLE,
    "queue_settings": PEOPLE,
    "inbox_limits": "one row",
    "stepwell_version": "one row",
    "stepwell_schema": "a row a migration",
}
"""Every table there is. Whoever adds one says here what bounds it, and lets `a_day` write into it."""
UNUSED = {"api_keys", "watchers", "run_tasks", "run_calls", "mail", "workers", "schedule_firings"}
"""Where `a_day` writes nothing."""

_PARTS = """
    WITH RECURSIVE part AS (
        SELECT c.oid, c.relname::text AS name, c.relkind FROM pg_class AS c
        WHERE c.relnamespace = 'stepwell'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
        UNION ALL
        SELECT i.inhrelid, p.name, 'r' FROM part AS p JOIN pg_inherits AS i ON i.inhparent = p.oid
    )
"""
_INSERTED = "SELECT name, coalesce(sum(pg_stat_get_tuples_inserted(oid)), 0)::bigint FROM part GROUP BY name"
_SIZES = """
    SELECT name, array_agg(oid::regclass::text) FILTER (WHERE relkind = 'r') AS parts,
        sum(pg_total_relation_size(oid))::bigint AS bytes
    FROM part GROUP BY name
"""
_OPEN = "SELECT (SELECT count(*) FROM runs WHERE type <> 'straggler') + (SELECT count(*) FROM jobs)"
_OVERDUE = """
    SELECT (SELECT count(*) FROM closed_runs WHERE end_time < now() + interval '{hours} hours')
        + (SELECT count(*) FROM closed_jobs WHERE end_time < now() + interval '{hours} hours')
"""
# What a month makes of the batches' ids, which hold the time of the machine.
_AGE_BATCHES = """
    UPDATE batches SET batch_id = (
        lpad(to_hex(('x' || substr(replace(batch_id::text, '-', ''), 1, 12))::bit(48)::bigint - 86400000), 12, '0')
        || substr(replace(batch_id::text, '-', ''), 13)
    )::uuid
"""


@activity
async def weigh(number: int) -> int:
    activity.heartbeat(number)
    return number


@workflow
async def errand(ctx: Context, number: int) -> int:
    ctx.set_attributes(number=number, kind="errand")
    ctx.publish("number", number)
    weight = await ctx.activity(weigh, number)
    await ctx.step("local", lambda: weight)
    await ctx.gather(ctx.sleep(600), ctx.wait_signal("go"))
    if number % 10 == 0:
        await ctx.wait_topic("news")
    if number % 10 == 5:
        await ctx.wait_topic("flash")
    if number % 30 == 0:
        await ctx.user_task("ask", {"number": number}, timeout=600)
    return number


@workflow
async def nightly(ctx: Context, _: object) -> int:
    return await ctx.step("once", lambda: 1)


@workflow
async def straggler(ctx: Context, _: object) -> str:
    await ctx.step("begun", lambda: 1)
    told: str = await ctx.wait_signal("end", as_type=str)
    return told


WORK: dict[str, Any] = {"workflows": [errand, nightly, straggler], "activities": [weigh]}


class Month:
    """A deployment whose clock is moved."""

    def __init__(self, here: Live, sql: asyncpg.Connection) -> None:
        self.here = here
        self.client = here.client
        self.sql = sql
        self.clock: Any = clock_pb2_grpc.ClockServiceStub(here.server.channel)
        self.hours = 0.0
        self.sizes: dict[int, dict[str, tuple[int, int]]] = {}
        self.before: dict[str, int] = {}

    async def advance(self, hours: float) -> None:
        self.hours += hours
        by = Duration()
        by.FromTimedelta(timedelta(hours=hours))
        await self.clock.AdvanceClock(clock_pb2.AdvanceClockRequest(by=by))

    async def a_day(self, day: int) -> None:
        """The same work as on every other day."""
        await self.sql.execute(
            "SELECT setval('run_key_blocks', greatest($1, (SELECT last_value FROM run_key_blocks)))",
            day * KEY_BLOCKS_A_DAY,
        )
        handles = await asyncio.gather(*(self._start(number) for number in range(RUNS)))
        jobs = [
            self.client.start_job(weigh, n, unique_key=f"{day}-{n}", request_id=f"job-{day}-{n}") for n in range(JOBS)
        ]
        await asyncio.gather(*jobs, self._outside(), self._inside())
        await asyncio.gather(*(handle.signal("go", request_id=f"{day}-{handle.run_id}") for handle in handles))
        for _ in range(4):
            await self.client.topics.publish("news", day, retain=86_400, request_id=uuid4().hex)
            await self.advance(5.5)
        # What waits for a timer or an event began to do so after the clock was moved.
        while await self.count(_OPEN):
            await self.client.topics.publish("flash", day)
            await self.advance(0.25)
            await asyncio.sleep(0.2)
        await self.advance(max(0.0, day * 24 - self.hours))
        await self.sql.execute(_AGE_BATCHES)

    async def _start(self, number: int) -> Any:
        options: dict[str, Any] = {"workflow_id": f"errand-{uuid4().hex}", "fairness_key": f"k{number % 7}"}
        if number % 9 == 0:
            options["concurrency"] = Concurrency(key="c", maximum_runs=100, strategy="round_robin", name="rounds")
        elif number % 9 == 1:
            options = {"debounce": Debounce(key=uuid4().hex, period=0.01)}
        elif number % 9 == 2:
            options["definition"] = "errand"
        return await self.client.start_run(errand, number, **options)

    async def _outside(self) -> None:
        """What an outside engine does, with runs and without."""
        run, step, event, snapshot, dispatch, control = (
            Store(self.here.server, noun) for noun in ("run", "step", "event", "snapshot", "dispatch", "run_control")
        )
        for number in range(DRIVEN):
            run_id = await create(self.here.server, workflow_id=f"driven-{uuid4().hex}")
            await run.call("SetRunData", run_id=run_id, changes=[{"name": "a", "set": as_json("1")}])
            await step.call("BeginStep", run_id=run_id, step_name="s")
            await event.call("AppendEvent", run_id=run_id, type="Paid", caller_seq=1, payload=as_json("1"))
            await snapshot.call("CreateSnapshot", run_id=run_id, event_seq=number, state=as_json("1"))
            for dispatched in (run_id, str(uuid4())):
                await dispatch.call("RecordDispatch", run_id=dispatched, step_name="s", request_id=uuid4().hex)
                await control.call(
                    "RegisterIdempotencyKey", type="t", trigger_key="k", idempotency_key=uuid4().hex, run_id=dispatched
                )
            await control.call("ConfigureRun", run_id=run_id, trigger_key="manual")
            await run.call("MarkRunCompleted", run_id=run_id)

    async def _inside(self) -> None:
        """What programs ask for in transactions of their own, and what is refused of it."""
        for _ in range(5):
            await self.sql.execute("SELECT stepwell_start('nightly')")
            await self.sql.execute("SELECT stepwell_signal('s', NULL, gen_random_uuid())")

    async def count(self, query: str) -> int:
        found: int = await self.sql.fetchval(query)
        return found

    async def overdue(self) -> int:
        """How many runs and jobs are past their retention."""
        return await self.count(_OVERDUE.format(hours=self.hours - 24 * KEPT_DAYS))

    async def look(self, day: int) -> None:
        """How many rows, and how many bytes, each table has once all that is due has gone."""
        while day not in self.sizes:
            # A partition that goes meanwhile has a number for its name, or none.
            with suppress(asyncpg.PostgresSyntaxError, asyncpg.UndefinedTableError):
                self.sizes[day] = await self._sizes()

    async def settled(self, day: int) -> bool:
        """Looks anew: what is kept for a day or an hour goes with a later round than what is past its retention."""
        self.sizes.pop(day, None)
        # As autovacuum does it, which is off in tests.
        await self.sql.execute("VACUUM")
        await self.look(day)
        return not self.grown(min(self.sizes.keys() & set(LOOKS), default=day), day)

    async def _sizes(self) -> dict[str, tuple[int, int]]:
        found = {}
        for name, parts, bytes_ in await self.sql.fetch(_PARTS + _SIZES):
            rows = [await self.count(f"SELECT count(*) FROM {part}") for part in parts or ()]  # noqa: S608
            found[name] = (sum(rows), bytes_)
        return found

    async def unused(self) -> set[str]:
        """Tables into which nobody has written in this month; the database may be older."""
        written = {name for name, rows in (await self.written()).items() if rows > self.before.get(name, 0)}
        return {name for name, (rows, _) in self.sizes[LOOKS[-1]].items() if not rows} - written

    async def written(self) -> dict[str, int]:
        """How many rows have ever been written into each table."""
        return {row[0]: row[1] for row in await self.sql.fetch(_PARTS + _INSERTED)}

    def grown(self, before: int, after: int) -> dict[str, Any]:
        """Which tables are larger than they may be."""
        first, last = self.sizes[before], self.sizes[after]
        return {
            name: (first[name], last[name])
            for name in first
            if last[name][0] > first[name][0] * MORE_ROWS + LITTLE_ROWS
            or last[name][1] > first[name][1] * MORE_BYTES + LITTLE_BYTES
        }

    def table(self) -> str:
        """Rows and kilobytes by day."""
        lines = [f"{'table':<20}" + "".join(f"{f'day {day}':>18}" for day in sorted(self.sizes))]
        for name in sorted(BOUNDED_BY):
            cells = [self.sizes[day][name] for day in sorted(self.sizes)]
            lines.append(f"{name:<20}" + "".join(f"{rows:>8} {size // 1024:>6} kB" for rows, size in cells))
        return "\n".join(lines)


@asynccontextmanager
async def a_month(url: str) -> AsyncIterator[Month]:
    kept = KEPT_DAYS * 86_400.0
    settings = {
        "test_clock": True,
        "retention_poll_seconds": 0.2,
        "job_retention_seconds": kept,
        "dead_letter_seconds": kept,
    }
    async with live(url, **settings) as here, connected(url) as sql, here.working(**WORK):
        month = Month(here, sql)
        month.before = await month.written()
        await here.client.update_namespace("main", retention=kept)
        await here.client.update_task_queue("default", fairness={}, key_rate_limit=RateLimit(1_000, 1_000))
        await here.client.definitions.create("errand", name="errand")
        await here.client.schedules.create("nightly", nightly, cron="0 */6 * * *")
        yield month


@pytest.mark.long
@pytest.mark.timeout(1_800)
async def test_a_month_of_work_leaves_no_more_than_its_retention_keeps(database_url: str) -> None:
    """With a run that is open for most of it, whose history stands in a partition of its own for so long."""
    async with a_month(database_url) as month:
        long_one = await month.client.start_run(straggler, None, workflow_id="long")
        for day in range(1, DAYS + 1):
            await month.a_day(day)
            if day == 24:
                assert await month.count("SELECT count(*) FROM events_p1") > 0
                await long_one.signal("end", "at last")
                assert await long_one.result() == "at last"
            await until(month.overdue, lambda found: found == 0)
            await month.sql.execute("VACUUM")
            if day in LOOKS or day == 1:
                with suppress(AssertionError):  # what stays is told below, by its name
                    await until(functools.partial(month.settled, day), seconds=30)
        print(month.table())
        assert month.sizes[30].keys() == BOUNDED_BY.keys()
        assert await month.unused() == UNUSED
        assert month.grown(10, 20) == {}
        assert month.grown(10, 30) == {}
        partitions = {
            row[0]
            for row in await month.sql.fetch("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")
        }
        events = sorted(int(name.removeprefix("events_p")) for name in partitions if name.startswith("events_p"))
        assert events[0] > 4, events
        assert len(events) <= 8, events
