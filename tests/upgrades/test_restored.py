"""A database that was restored is older than its workers: whoever knows of a later time is refused, and runs end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest_asyncio
from tests.api.stores import RUNNING, Store, claimed, create, span
from tests.api.stores import json as as_json
from tests.api.watching import Watcher
from tests.main.program import outcome
from tests.sdk.live import Live, live
from tests.service import refusal
from tests.stream.calls import Caller, code_of
from tests.stream.kit import ACCEPTED, ACTIVITY, RUN, Replica, error_reason, payload, replica
from tests.upgrades import dumps
from tests.upgrades.ground import claimed as grants
from tests.upgrades.ground import connected, database

from stepwell import Context, activity, workflow
from stepwell.v1 import runs_pb2
from stepwell.v1.workers_pb2 import CompleteActivity, Task
from stepwell_server.store.partitions import RUN_KEYS
from stepwell_server.store.restorations import JUMP, KEPT, RAISED, SEQUENCES

COUNTING = ("grants", "version", "epoch", "revision", "turn", "token")


@pytest_asyncio.fixture
async def restored_url(server_url: str) -> AsyncIterator[str]:
    """An empty database, to restore into."""
    async with database(server_url) as url:
        yield url


async def restored(url: str, *options: str) -> dict[str, Any]:
    """What an operator does after a restoration."""
    code, said = await outcome("restored", "-o", "json", *options, DATABASE_URL=url)
    assert code == 0, said
    told: dict[str, Any] = json.loads(said)
    return told


async def test_whoever_holds_something_of_a_later_time_is_refused(
    database_url: str, restored_url: str, tmp_path: Path
) -> None:
    """Run, activity and job; a lease of a driven run; a leadership: none of their tokens is good any more."""
    async with replica(database_url, session_seconds=60.0) as one:
        run_id, other_id, job_id = await one.start(), await one.start(), await one.start_job(queue="q")
        caller = await Caller.of(one)
        runs = {task.run_id: task for task in await caller.claim(kind=RUN, max_tasks=2)}
        (job,) = await caller.claim(kind=ACTIVITY)
        runner, leader = Store(one, "run"), Store(one, "leader")
        driven = await create(one)
        lease = (await claimed(runner, driven, "a", 60)).token
        lead = {"leadership": "l", "holder_id": "a", "ttl": span(0.05)}
        epoch = (await leader.call("AcquireLeadership", **lead)).token
        await dumps.dump(database_url, tmp_path / "dump")
        # What is acknowledged now is lost with the database. Its workers know it.
        assert (await code_of(caller, runs[other_id]).complete(value=1)).status == ACCEPTED
        lost = [await one.start() for _ in range(3)]
        later = {task.run_id: task for task in await caller.claim(kind=RUN, max_tasks=3)}
        assert later.keys() == set(lost)
    await dumps.restore(tmp_path / "dump", restored_url)
    told = await restored(restored_url)
    assert (told["runs"], told["jobs"], told["sessions"]) == (3, 1, 1)
    async with replica(restored_url, session_seconds=5.0) as one:
        stale = Caller(one, caller.session_id)
        fresh = await Caller.of(one)
        # New runs take no key, no task id of those that are lost.
        started = [await one.start() for _ in range(3)]
        mine = {task.run_id: task for task in await fresh.claim(kind=RUN, max_tasks=3)}
        assert mine.keys() == set(started)
        assert not {task.ref.task_id for task in mine.values()} & {task.ref.task_id for task in later.values()}
        for task in (*runs.values(), job, *later.values()):
            for who in (stale, fresh):
                assert await _is_refused(who, task)
        again = {task.run_id: task for task in await grants(fresh, RUN, 2)}
        assert again.keys() == {run_id, other_id}
        assert {task.ref.token > JUMP for task in again.values()} == {True}
        for task in (*again.values(), *mine.values()):
            assert (await code_of(fresh, task).complete(value=2)).status == ACCEPTED
        (job_again,) = await grants(fresh, ACTIVITY)
        assert job_again.ref.token > JUMP
        assert (await fresh.report(job_again.ref, complete=CompleteActivity(result=payload(1)))).status == ACCEPTED
        assert (await one.job(job_id)).attempt >= 1
        runner, leader = Store(one, "run"), Store(one, "leader")
        writing = runner.call("SetRunPhase", run_id=driven, phase=RUNNING, token=lease)
        assert (await refusal(writing))[1] == "LEASE_LOST"
        assert (await leader.call("AcquireLeadership", **lead)).token > epoch + JUMP
        assert await _recorded_twice(restored_url) == []


async def _is_refused(caller: Caller, task: Task) -> bool:
    """The session has ended, or the lease is another's, or there is no such run."""
    if task.kind == ACTIVITY:
        reporting = caller.report(task.ref, complete=CompleteActivity(result=payload(1)))
    else:
        reporting = code_of(caller, task).complete(value=1)
    try:
        result = await reporting
    except grpc.aio.AioRpcError as error:
        return "does not exist: say hello for a new one" in (error.details() or "")
    return error_reason(result) in {"LEASE_LOST", "RUN_NOT_FOUND"}


async def _recorded_twice(url: str) -> list[Any]:
    async with connected(url) as sql:
        return list(
            await sql.fetch(
                "SELECT run_key FROM events WHERE type BETWEEN 2 AND 8 GROUP BY run_key HAVING count(*) > 1"
            )
        )


@activity
async def square(number: int) -> int:
    return number * number


@workflow
async def sums(ctx: Context, waits: bool) -> int:
    total = 0
    for number in range(3):
        total += await ctx.activity(square, number)
        await ctx.sleep(0.05)
    return total + (await ctx.wait_signal("more", as_type=int) if waits else 0)


async def test_a_backup_under_load_is_one_moment(database_url: str, restored_url: str, tmp_path: Path) -> None:
    """Each run of it ends as it should, and each end is recorded once."""
    options: dict[str, Any] = {"workflows": [sums], "activities": [square]}
    async with live(database_url) as here, here.working(**options):
        starting = asyncio.create_task(_start(here, 150))
        await _until_ended(database_url, 5)
        await dumps.dump(database_url, tmp_path / "dump")
        assert await _ends(here, await starting) == {5, 6}
    await dumps.restore(tmp_path / "dump", restored_url)
    await restored(restored_url)
    async with connected(restored_url) as sql:
        open_ = await sql.fetchval("SELECT count(*) FROM runs")
        ended = await sql.fetchval("SELECT count(*) FROM closed_runs")
        names = [row[0] for row in await sql.fetch("SELECT workflow_id FROM workflow_ids")]
        assert len(names) == open_ + ended
        assert min(open_, ended) > 0
    async with live(restored_url) as here, here.working(**options):
        assert await _ends(here, names) == {5, 6}
    assert await _recorded_twice(restored_url) == []


async def _start(here: Live, count: int) -> list[str]:
    """Every third waits until somebody signals it."""
    names = [f"{'waits' if number % 3 == 0 else 'goes'}-{number}" for number in range(count)]
    for name in names:
        await here.client.start_run(sums, name.startswith("waits"), workflow_id=name)
    return names


async def _ends(here: Live, names: list[str]) -> set[int]:
    """What runs come to."""
    handles = [here.client.run(workflow_id=name, as_type=int) for name in names]
    for handle in handles:
        if handle.workflow_id.startswith("waits"):
            await handle.signal("more", 1)
    async with asyncio.timeout(120):
        return {await handle.result() for handle in handles}


async def _until_ended(url: str, count: int) -> None:
    async with connected(url) as sql, asyncio.timeout(60):
        while await sql.fetchval("SELECT count(*) FROM closed_runs") < count:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


async def test_a_watch_that_knows_of_a_later_time_misses_nothing(
    database_url: str, restored_url: str, tmp_path: Path
) -> None:
    """The numbers of the committers after the restoration are none that a cursor of before has seen."""
    async with replica(database_url):
        await dumps.dump(database_url, tmp_path / "dump")
    await dumps.restore(tmp_path / "dump", restored_url)
    async with replica(database_url) as one:
        # Another replica of the lost time, with a committer's number that is given again.
        watcher = Watcher(one.runs.WatchRuns(runs_pb2.WatchRunsRequest()))
        await watcher.read()
        for run_id in await one.start_many(20):
            await _end(one, run_id)
        await watcher.until(20)
    await restored(restored_url)
    async with replica(restored_url) as one:
        ids = [await one.start() for _ in range(5)]
        for run_id in ids:
            await _end(one, run_id)
        after = Watcher(one.runs.WatchRuns(runs_pb2.WatchRunsRequest(cursor=watcher.cursor)))
        assert set(await after.until(5)) == set(ids)


async def _end(one: Replica, run_id: str) -> None:
    await one.runs.TerminateRun(runs_pb2.TerminateRunRequest(run_id=run_id))


async def test_versions_that_callers_compare_jump_too(database_url: str, restored_url: str, tmp_path: Path) -> None:
    """Data of a driven run, written against a version of the lost time, is refused."""
    async with replica(database_url) as one:
        run_id = await create(one)
        runner = Store(one, "run")
        seen = await _set(runner, run_id)
        await dumps.dump(database_url, tmp_path / "dump")
        lost = await _set(runner, run_id)
    await dumps.restore(tmp_path / "dump", restored_url)
    await restored(restored_url)
    async with replica(restored_url) as one:
        runner = Store(one, "run")
        assert await _set(runner, run_id) == seen + JUMP + 1
        for stale in (seen, lost):
            assert (await refusal(_set(runner, run_id, expected_version=stale)))[1] == "RUN_DATA_CHANGED"


async def _set(runner: Store, run_id: str, **fields: Any) -> int:
    changes = [{"name": "a", "set": as_json("1")}]
    version: int = (await runner.call("SetRunData", run_id=run_id, changes=changes, **fields)).data_version
    return version


async def test_schedules_wait_until_somebody_has_looked(database_url: str) -> None:
    async with connected(database_url) as sql:
        await sql.execute(
            "INSERT INTO schedules SELECT gen_random_uuid(), 1, 's' || n, '* * * * *', 'UTC', 0, NULL, NULL, 1, 60, "
            "'', CASE n WHEN 1 THEN 'mine' END, now(), now(), 1, now(), now(), 0, NULL, '', NULL, 0, 0, 0, '' "
            "FROM generate_series(1, 3) AS n"
        )
        assert (await restored(database_url))["schedules_paused"] == 0
        assert (await restored(database_url, "--pause-schedules"))["schedules_paused"] == 2
        rows = await sql.fetch("SELECT pause_reason, next_time IS NULL AS rests FROM schedules ORDER BY name")
        assert [tuple(row) for row in rows] == [("mine", False), ("restored", True), ("restored", True)]


async def test_nothing_is_raised_under_a_server(database_url: str) -> None:
    async with replica(database_url) as one:
        await one.service.leader.wait_elected()
        code, said = await outcome("restored", DATABASE_URL=database_url)
    assert code == 1
    assert "a server leads on this database: stop all servers, and repeat" in said
    assert "Traceback" not in said


async def test_what_counts_grants_and_changes_is_raised_or_kept_for_a_reason(database_url: str) -> None:
    """A table that comes, and a sequence, must say which."""
    async with connected(database_url) as sql:
        columns = await sql.fetch(
            """
            SELECT c.relname || '.' || a.attname FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
            WHERE c.relnamespace = 'stepwell'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
                AND a.attname = ANY($1::text[])
            """,
            list(COUNTING),
        )
        sequences = await sql.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'stepwell'::regnamespace AND relkind = 'S'"
        )
        raised = {f"{table.name}.{name}" for table, names in RAISED.items() for name in names}
        assert raised.isdisjoint(KEPT)
        assert {row[0] for row in columns} == raised | KEPT.keys()
        assert {row[0] for row in sequences} == SEQUENCES.keys()


async def test_partitions_are_there_for_the_keys_that_come_next(database_url: str) -> None:
    """Else the rows of a whole range would go to the default ones, for good."""
    await restored(database_url)
    async with connected(database_url) as sql:
        last = await sql.fetchval("SELECT last_value * 1000 FROM run_key_blocks")
        number = last // RUN_KEYS + 1
        names = {row[0] for row in await sql.fetch("SELECT relname FROM pg_class WHERE relispartition")}
        assert {f"events_p{number}", f"closed_jobs_p{number + 1}"} <= names
