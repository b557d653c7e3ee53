"""From the first migration's schema, full of rows, to the newest: beside who works there, and nothing is lost."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
from tests.sdk.live import live
from tests.service import soon
from tests.stream.kit import until
from tests.upgrades.ground import connected, files_of_big_tables

from stepwell import Context, workflow
from stepwell_server.store.migrations import migrate, shipped

# Tables that a migration may write anew, and why. None has to so far.
REWRITTEN: dict[str, str] = {}
# A client of old: it names what it writes, and stands in no queue for long.
BOUNDED = {"lock_timeout": "2s", "statement_timeout": "10s"}
READS = (
    "SELECT count(*) FROM runs WHERE namespace_id = 1 AND run_key BETWEEN 19000 AND 19100",
    "SELECT count(*) FROM closed_runs WHERE run_key BETWEEN 100 AND 200",
    "SELECT count(*) FROM events WHERE run_key BETWEEN 100 AND 200",
    "SELECT count(*) FROM signals WHERE run_key BETWEEN 19700 AND 19710",
    "SELECT count(*) FROM steps WHERE run_key BETWEEN 19700 AND 19900",
)
WRITES = (
    "UPDATE runs SET version = version + 1 WHERE run_key = 19500",
    "UPDATE steps SET attempt = attempt + 1 WHERE run_key = 19900",
    """
    INSERT INTO events (
        run_key, number, type, origin, step_ordinal, event_time, payload_kind, payload, caller_seq
    ) SELECT 90000, coalesce(max(number), 0) + 1, 0, 2, 0, now(), 0, '', 0 FROM events WHERE run_key = 90000
    """,
    """
    INSERT INTO tasks (run_key, ordinal, namespace_id, task_queue, kind, type, rank, ready_time, build_id)
    VALUES (90000, 0, 1, 'none', 1, 'none', 5, now(), '')
    """,
    "DELETE FROM tasks WHERE run_key = 90000",
)


class Bystander:
    """Who goes on working while the schema changes."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._task: asyncio.Task[None] | None = None
        self.rounds = 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Raises what went wrong, if anything did."""
        assert self._task is not None
        seen = self.rounds
        await soon(lambda: self._has_gone_on(seen))
        self._task.cancel()
        await asyncio.wait({self._task})
        assert self._task.cancelled() or self._task.exception() is None, self._task.exception()

    async def _has_gone_on(self, seen: int) -> bool:
        assert self._task is not None
        return self.rounds > seen or self._task.done()

    async def _work(self) -> None:
        while True:
            for statement in (*READS, *WRITES):
                await self._connection.execute(statement)
            await self._connection.execute(
                "INSERT INTO batches (batch_id, committer, position, commit_time, ended) "
                "VALUES ($1, 8, $2, now(), '{}')",
                uuid4(),
                self.rounds,
            )
            self.rounds += 1
            await asyncio.sleep(0)


async def test_no_migration_writes_a_big_table_anew_or_stops_who_works(first_url: str) -> None:
    """Each by itself: files stay, and an old client's reads and writes go on with short time-outs."""
    plan = shipped()
    rewritten: dict[str, int] = {}
    async with connected(first_url) as looking, connected(first_url, **BOUNDED) as working:
        bystander = Bystander(working)
        bystander.start()
        for migration in plan[1:]:
            before = await files_of_big_tables(looking)
            assert {"runs", "signals", "closed_runs_p1", "closed_steps_p1", "events_p1", "batches"} <= before.keys()
            await migrate(first_url, migrations=plan[: migration.number])
            after = await files_of_big_tables(looking)
            rewritten |= {name: migration.number for name in before if before[name] != after[name]}
        await bystander.stop()
        assert rewritten.keys() == REWRITTEN.keys(), rewritten
        invalid = await looking.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid")
        assert invalid == 0
        assert bystander.rounds > len(plan)


OF_RUNS = "SELECT count(*) FROM steps JOIN runs USING (run_key) WHERE steps.managed"


async def test_old_rows_say_what_new_columns_mean(first_url: str) -> None:
    """What a migration fills in, it fills in for every row that was there."""
    await migrate(first_url)
    async with connected(first_url) as sql:
        assert await sql.fetchval("SELECT count(*) FROM signals WHERE chain_key = run_key") == 6_000
        assert await sql.fetchval("SELECT count(*) FROM steps WHERE NOT managed") == 500
        assert await sql.fetchval(OF_RUNS) == 400
        assert await sql.fetchval("SELECT count(*) FROM pg_constraint WHERE conname = 'signals_chain_key_there'") == 0


@workflow(name="old")
async def old(ctx: Context, kind: str) -> str:
    """Goes on from wherever its kind stood."""
    if kind == "waits":
        return f"went on {await ctx.wait_signal('go')}"
    if kind == "sleeps":
        await ctx.sleep(3600)
        return "woke up"
    return f"first {await ctx.step('first', lambda: 2)}"


async def test_runs_of_old_are_read_found_and_finished(first_url: str) -> None:
    """What ended is told as it was, and what is open is brought to its end by a worker of today."""
    await migrate(first_url)
    async with live(first_url) as here:
        ended = here.client.run(workflow_id="old-7", as_type=str)
        assert await ended.result() == "did well"
        assert [event.type async for event in ended.history()] == ["RunStarted", "StepCompleted", "RunCompleted"]
        found = [run.workflow_id async for run in here.client.list_runs(phases=["FAILED"], correlation_id="batch-0")]
        assert len(found) == 950
        assert "old-20" in found
        async with here.working(workflows=[old]):
            waiting = [here.client.run(workflow_id=f"old-{n}", as_type=str) for n in range(19_601, 19_801)]
            await asyncio.gather(*(handle.signal("go", 7) for handle in waiting))
            async with connected(first_url) as sql:
                await until(
                    lambda: sql.fetchval("SELECT count(*) FROM runs WHERE NOT driven"), lambda left: left == 0, 180
                )
        expected = {19_001: "first 2", 19_401: "first 1", 19_601: "went on 7", 19_801: "woke up"}
        for first, result in expected.items():
            handles = [here.client.run(workflow_id=f"old-{n}", as_type=str) for n in range(first, first + 200, 40)]
            assert {await handle.result() for handle in handles} == {result}
        async with connected(first_url) as sql:
            assert await sql.fetchval("SELECT count(*) FROM closed_runs WHERE type = 'old'") == 20_000
            assert await sql.fetchval("SELECT count(*) FROM runs WHERE driven") == 500
